"""One batch seen by both networks: what each says by name, computed when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor, nn
from torchvision.models.detection.rpn import concat_box_prediction_layers

from detkd.distill.head_maps import objectness_and_deltas
from detkd.distill.taps import Reading
from detkd.errors import ConfigError
from detkd.models.detector import Detector
from detkd.models.roi_features import RoIAlign


class BothSay(Protocol):
    """What two networks said of one batch, by the names of their features."""

    @property
    def student(self) -> Mapping[str, Tensor]: ...

    @property
    def teacher(self) -> Mapping[str, Tensor]: ...


class Outputs:
    """Features and heads' outputs of student and teacher, row by row of the same boxes.

    `student` and `teacher` map names to tensors:

    - c2..c5, p2..p6: maps [N, C, h, w];
    - roi.logits [R, K+1] ([R, K] of sigmoids), roi.boxes [R, 4(K+1)]: for the R proposals that the
      student was given;
    - cross.logits, cross.boxes: the teacher's RoI head on the student's levels, for the same
      proposals, with gradients to the student's features (on the teacher's side: roi.*);
    - rpn.logits [S, 1], rpn.boxes [S, 4]: at S anchors, half of them those in which the teacher
      believes most, the rest drawn from all others inside the images;
    - rpn.objectness@p3: the RPN's map [N, A, h, w] of a level.

    `truth` maps labels [R] (0 is background, -1 in frames that are not `labelled`) and
    roi.boxes [R, 4] (deltas) of the proposals.
    The teacher's RPN and RoI head run when something of theirs is asked for, and not before.
    """

    def __init__(
        self,
        student: Detector,
        reading: Reading,
        teacher: Detector,
        maps: dict[str, Tensor],
        *,
        labelled: bool = True,
    ) -> None:
        self._student, self._reading, self._labelled = student, reading, labelled
        self._teacher, self._maps = teacher, maps
        device = next(iter(maps.values())).device.type
        # Losses run without autocast; heads that they ask for run as the networks do.
        self._autocast = (
            device,
            torch.get_autocast_dtype(device),
            torch.is_autocast_enabled(device),
        )
        self.student: Mapping[str, Tensor] = ByName(self._of_student)
        self.teacher: Mapping[str, Tensor] = ByName(self._of_teacher)
        self.truth: Mapping[str, Tensor] = ByName(self._true)

    @property
    def classifier(self) -> str:
        """How the teacher's class logits are read: by softmax or sigmoid."""
        return self._teacher.config.classifier

    @cached_property
    def anchors(self) -> dict[str, Tensor]:
        """Anchors [h·w·A, 4] xyxy of each level, the same for every image."""
        names = list(self._student.backbone.neck.features)
        cells = [self._reading.features[name].shape[-2:].numel() for name in names]
        a_cell = self._student.rpn.anchor_generator.num_anchors_per_location()
        counts = [count * each for count, each in zip(cells, a_cell, strict=True)]
        return dict(zip(names, self._reading.anchors.split(counts), strict=True))

    def _of_student(self, name: str) -> Tensor:
        head, _, part = name.partition(".")
        if head == "rpn":
            if level := part.partition("@")[2]:
                return self._reading.objectness[level]
            return self._student_anchors[part == "boxes"].index_select(0, self._sampled)
        if head == "cross":
            return self._crossed[part == "boxes"]
        return self._reading.features[name]

    def _of_teacher(self, name: str) -> Tensor:
        head, _, part = name.partition(".")
        if head == "rpn":
            if level := part.partition("@")[2]:
                return self._teacher_rpn[0][level]
            return self._teacher_anchors[part == "boxes"].index_select(0, self._sampled)
        if head in ("roi", "cross"):
            return self._teacher_roi[part == "boxes"]
        return self._maps[name]

    def _true(self, name: str) -> Tensor:
        return self._assigned[name == "roi.boxes"]

    @cached_property
    def _teacher_roi(self) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return self._roi(self._maps)

    @cached_property
    def _crossed(self) -> tuple[Tensor, Tensor]:
        with _at_rest(self._teacher.roi_heads):
            return self._roi(self._reading.features)

    def _roi(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The teacher's RoI head on these levels, for the proposals that the student was given."""
        heads = self._teacher.roi_heads
        device, dtype, enabled = self._autocast
        with torch.autocast(device, dtype=dtype, enabled=enabled):
            pooled = self._pooled(heads.box_roi_pool, features)
            logits, boxes = heads.box_predictor(heads.box_head(pooled))
        # Row by row the same boxes: the student's head was given these, and no others.
        assert len(logits) == len(self._reading.features["roi.logits"]), "other proposals"
        return logits, boxes

    def _pooled(self, pool: RoIAlign, features: Mapping[str, Tensor]) -> Tensor:
        names = list(self._teacher.backbone.neck.features)
        if f"roi@{names[0]}" in features:  # from a cache
            maps = [features[f"roi@{name}"] for name in names]
        else:
            maps = pool.reduced([features[name] for name in names])
        return pool.cut(maps, self._reading.proposals, self._reading.image_sizes)

    @cached_property
    def _teacher_rpn(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        device, dtype, enabled = self._autocast
        levels = list(self._teacher.backbone.neck.features)
        if f"rpn@{levels[0]}" in self._maps:  # from a cache
            return objectness_and_deltas(levels, self._maps)
        with torch.no_grad(), torch.autocast(device, dtype=dtype, enabled=enabled):
            logits, deltas = self._teacher.rpn.head([self._maps[name] for name in levels])
        return dict(zip(levels, logits, strict=True)), dict(zip(levels, deltas, strict=True))

    @cached_property
    def _student_anchors(self) -> tuple[Tensor, Tensor]:
        return _by_anchor(self._reading.objectness, self._reading.deltas)

    @cached_property
    def _teacher_anchors(self) -> tuple[Tensor, Tensor]:
        objectness, deltas = self._teacher_rpn
        for level, ours in self._reading.objectness.items():
            check_cells(level, ours, objectness[level])
        return _by_anchor(objectness, deltas)

    @cached_property
    def _sampled(self) -> Tensor:
        """Rows of the anchors that are compared, of those of all images [N·M]."""
        logits, _ = self._teacher_anchors
        anchors, sizes = self._reading.anchors, self._reading.image_sizes
        x, y = (anchors[:, :2] + anchors[:, 2:]).T.contiguous() / 2
        inside_of = {
            (height, width): torch.where((x >= 0) & (x < width) & (y >= 0) & (y < height))[0]
            for height, width in set(sizes)
        }
        wanted = self._student.rpn.fg_bg_sampler.batch_size_per_image
        rows = []
        for at, (scores, size) in enumerate(zip(logits.view(len(sizes), -1), sizes, strict=True)):
            inside = inside_of[size]
            best = scores.index_select(0, inside).topk(min(wanted // 2, len(inside))).indices
            rest = torch.ones(len(inside), dtype=torch.bool, device=inside.device)
            rest[best] = False
            likely, others = inside[best], inside.masked_select(rest)
            drawn = torch.randperm(len(others), device=others.device)[: wanted - len(likely)]
            rows.append(torch.cat([likely, others[drawn]]) + at * len(anchors))
        return torch.cat(rows)

    @cached_property
    def _assigned(self) -> tuple[Tensor, Tensor]:
        proposals, coder = self._reading.proposals, self._student.roi_heads.box_coder
        matched, labels = match_proposals(self._student, self._reading)
        truths = [target["boxes"].to(proposals[0].dtype) for target in self._reading.targets]
        each = [
            boxes[index] if len(boxes) else own
            for boxes, index, own in zip(truths, matched, proposals, strict=True)
        ]
        if not self._labelled:
            labels = [torch.full_like(label, -1) for label in labels]
        return torch.cat(labels), torch.cat(list(coder.encode(each, proposals)))


def check_cells(level: str, student: Tensor, teacher: Tensor) -> None:
    """Refuse maps [..., h, w] of a level whose anchors are those of other cells.

    Raises:
        ConfigError: the backbones make maps of other sizes of one image, as SqueezeNet rounds.
    """
    if (ours := student.shape[-2:]) != (theirs := teacher.shape[-2:]):
        raise ConfigError(
            f"distill.losses: on {level} the student has {ours[0]}x{ours[1]} cells and the teacher "
            f"{theirs[0]}x{theirs[1]}, so that their anchors lie elsewhere; take another backbone, "
            "or terms that compare neither anchors nor proposals of the RPN."
        )


@contextmanager
def _at_rest(module: nn.Module) -> Iterator[None]:
    """Inside, what the module computes gives no gradients to its weights."""
    learning = [each for each in module.parameters() if each.requires_grad]
    for each in learning:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each in learning:
            each.requires_grad_(True)


def _by_anchor(
    objectness: Mapping[str, Tensor], deltas: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor]:
    """Logits [N·M, 1] and deltas [N·M, 4] of all anchors of all images, from those by level."""
    logits, boxes = concat_box_prediction_layers(list(objectness.values()), list(deltas.values()))
    return logits, boxes


def match_proposals(detector: Detector, reading: Reading) -> tuple[list[Tensor], list[Tensor]]:
    """Of each image's proposals the place of the truth they belong to [R_n], and labels [R_n].

    Label 0 is background, where the place says nothing.
    """
    truths = [target["boxes"].to(reading.proposals[0].dtype) for target in reading.targets]
    names = [target["labels"] for target in reading.targets]
    return detector.roi_heads.assign_targets_to_proposals(reading.proposals, truths, names)


class ByName(Mapping[str, Tensor]):
    """A mapping whose values are computed."""

    def __init__(self, value: Callable[[str], Tensor]) -> None:
        self._value = value

    def __getitem__(self, name: str) -> Tensor:
        return self._value(name)

    def __contains__(self, name: object) -> bool:
        return True

    def __iter__(self) -> Iterator[str]:
        raise TypeError("its names are those in the docstring of Outputs")

    def __len__(self) -> int:
        raise TypeError("its names are those in the docstring of Outputs")
