"""Distillation as a module: a student and its teacher, with a detector's own signature."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detkd.config import DistillConfig, TermConfig
from detkd.distill.balance import Kind
from detkd.distill.cache import MapCache, autocast_dtype, marks_of
from detkd.distill.frames import SEEN, boxes_of_teacher, ignoring, split_batch
from detkd.distill.head_maps import head_maps
from detkd.distill.outputs import Outputs
from detkd.distill.schedule import idle_from
from detkd.distill.sharing import (
    Plan,
    apply_sharing,
    frozen_norms,
    frozen_parameters,
    plan_sharing,
)
from detkd.distill.taps import Reading, padded_size, read
from detkd.distill.teaching import OF_TEACHER, Teaching, idle
from detkd.distill.terms import Term
from detkd.distill.view import View
from detkd.errors import ConfigError
from detkd.models.detector import Detector
from detkd.models.folding import fold_norms


@dataclass
class Seen:
    """Images that the student has seen: what it said, and the teacher's features once asked."""

    images: list[Tensor]
    reading: Reading
    task: dict[str, Tensor]
    maps: dict[str, Tensor] = field(default_factory=dict)
    labelled: bool = True


class Distiller(Teaching[Detector]):
    """`model(images, targets)` gives the student's losses and one more for each term and feature.

    A term's loss is the mean over its features, times its weight; it appears as `pkd@p3`. The
    teacher is in evaluation mode, without gradients, and read once a step on the very tensors
    that the student sees, or not at all when no term is on; it is not part of the state that is
    saved. Where neither labels count nor a term that is on asks for a head, the student's heads do
    not run either. An image whose target has the key `unlabelled` has no annotations: the
    teacher's boxes say which proposals are looked at, and the terms compare the two networks there
    as everywhere. Annotated images and others count by their numbers, in the terms and, where the
    teacher's boxes are labels, in the task. In evaluation the distiller is the student.

    Args:
        student: trained together with the adapters.
        teacher: read only, and its backbone's norms folded, unless a part is trained by both: then
            it learns the task, too.
        terms: the distillation losses.
        steps: of the whole training, by which schedules go.
        plan: what the student took over, and what of it is frozen until when.
        task_from: share of the training from which the student's own losses count.
        thawed_lr: factor on the learning rate of what was frozen and is trained on.
        balance: what is done about terms that pull too hard, as `Balance` says.
        pseudo: score from which the teacher's boxes are labels of frames that have none; None: in
            such frames only the terms count.
        ignore: score from which up to `pseudo` a box makes no example of background either.
        precision: of the teacher's backbone and neck: same (as the student's), bf16 or fp16.
        cache: where the teacher's features are kept, with all that are needed.
    """

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        terms: Sequence[TermConfig],
        *,
        steps: int = 1,
        plan: Plan | None = None,
        task_from: float = 0.0,
        thawed_lr: float = 1.0,
        balance: Kind = "fixed",
        pseudo: float | None = None,
        ignore: float = 0.2,
        precision: str = "same",
        cache: MapCache | None = None,
    ) -> None:
        self.plan, self.task_from = plan or Plan(), task_from
        super().__init__(
            student,
            teacher,
            terms,
            steps=steps,
            balance=balance,
            trained=bool(self.plan.joint),
        )
        if not self.trained:
            fold_norms(teacher.backbone.body)
        self.pseudo, self.ignore, self.cache = pseudo, ignore, cache
        self.low = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
        self._to_thaw = frozen_parameters(self.plan, student) if self.plan.until < 1 else {}
        self.lr_factors = {f"student.{name}": thawed_lr for name in self._to_thaw}

    def lines(self) -> list[str]:
        """What is shared, part by part, and what is adapted."""
        return [*self.plan.lines(), *super().lines()]

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        self._freeze()
        return self

    def _freeze(self) -> None:
        """Keep the planned parts as they are, until they are to be trained on."""
        thawed = int(self.step) >= self.plan.until * self.steps
        for norm in frozen_norms(self.plan, self.student):
            norm.train(self.training and thawed)
        for parameter in self._to_thaw.values():
            parameter.requires_grad_(thawed)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if not self.training:
            return self.student(images)
        assert targets is not None
        if self._to_thaw:
            self._freeze()
        terms, weights = self.at_step()
        alone = int(self.step) < self.task_from * self.steps
        asked = any(term.reads_heads for term, weight in zip(terms, weights, strict=True) if weight)
        heads = not alone or asked or bool(self.plan.joint)
        labels_there = self.pseudo is not None and not alone
        heads_there = labels_there or asked or bool(self.plan.joint)
        labelled, frames = split_batch(images, targets)
        seen = []
        if labelled:
            seen.append(
                self._see([images[at] for at in labelled], [targets[at] for at in labelled], heads)
            )
        if frames and (any(weights) or labels_there or not labelled):
            seen.append(
                self._see_frames(
                    [images[at] for at in frames], [targets[at] for at in frames], heads_there
                )
            )
        losses = _task(seen)
        if alone:
            losses = {name: 0.0 * loss for name, loss in losses.items()}
        if not (heads if labelled else heads_there):
            losses = self._idle_heads(seen)
        found = self._compare(seen, terms, weights) if any(weights) else [{} for _ in terms]
        taps = [
            each.reading.features[name]
            for each in seen
            for name in self.student.backbone.body.features
        ]
        losses |= self.balanced(losses, found, weights, taps)
        losses |= self.at_rest(weights, images[0])
        self.step += 1
        return losses

    def _idle_heads(self, seen: Sequence[Seen]) -> dict[str, Tensor]:
        """The losses of heads that did not run: zero, with gradients of zero to what did."""
        levels = self.student.backbone.neck.features
        zero = torch.stack(
            [0.0 * each.reading.features[name].sum() for each in seen for name in levels]
        ).sum()
        return {
            "loss_objectness": idle(self.student.rpn, zero),
            "loss_rpn_box_reg": zero,
            "loss_classifier": idle(self.student.roi_heads, zero),
            "loss_box_reg": zero,
        }

    def _read(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], heads: bool
    ) -> tuple[Reading, dict[str, Tensor]]:
        """What the student says of images, and its losses; of its levels alone without `heads`."""
        with read(self.student) as reading:
            if heads:
                return reading, self.student(images, targets)
            batch, _ = self.student.transform(images, targets)
            levels = self.student.levels_of(batch)
            self.student.rpn.anchor_generator(batch, list(levels.values()))
        return reading, {}

    def _see(self, images: list[Tensor], targets: list[dict[str, Tensor]], heads: bool) -> Seen:
        """Annotated images through the student; and through a teacher that is trained, too."""
        reading, task = self._read(images, targets, heads)
        if not self.plan.joint:
            return Seen(images, reading, task)
        with read(self.teacher) as theirs:
            losses = self.teacher(images, targets)
        task |= {name.replace("loss_", OF_TEACHER): loss for name, loss in losses.items()}
        maps = {name: value.detach() for name, value in theirs.features.items()}
        return Seen(images, reading, task, maps)

    def _see_frames(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], heads: bool
    ) -> Seen:
        """Frames without annotations through both, the teacher first: its boxes stand in."""
        self.teacher.eval()
        batch, _ = self.teacher.transform(images, None)
        maps = self._ask(images, targets, padded_size(batch), batch)
        sure = SEEN if self.pseudo is None else self.pseudo
        # Where its boxes are no labels, what it is unsure of is what the terms have to tell.
        unsure = sure if self.pseudo is None else min(self.ignore, sure)
        found, uncertain = boxes_of_teacher(self.teacher, images, batch, maps, sure, unsure)
        self.teacher.train(bool(self.plan.joint))
        with ignoring(self.student, uncertain):
            reading, task = self._read(images, found, heads)
        return Seen(images, reading, task if self.pseudo is not None else {}, maps, labelled=False)

    def _compare(
        self, seen: Sequence[Seen], terms: Sequence[Term], weights: Sequence[float]
    ) -> list[dict[str, Tensor]]:
        """The weighted losses of each term by name, none of those that are off."""
        found: list[dict[str, Tensor]] = [{} for _ in terms]
        images = sum(len(each.images) for each in seen)
        for each in seen:
            if not each.maps:
                each.maps = self._ask(each.images, each.reading.targets, each.reading.padded_size)
            outputs = Outputs(
                self.student, each.reading, self.teacher, each.maps, labelled=each.labelled
            )
            view = View.of_outputs(each.reading, outputs)
            share = len(each.images) / images
            with torch.autocast(device_type=each.images[0].device.type, enabled=False):
                for sums, term, weight in zip(found, terms, weights, strict=True):
                    losses = term(outputs, view) if weight else {}
                    for name, loss in losses.items():
                        sums[name] = sums.get(name, 0.0) + share * weight / len(losses) * loss
        return found

    @torch.no_grad()
    def _ask(
        self,
        images: list[Tensor],
        targets: list[dict[str, Tensor]],
        size: tuple[int, int],
        batch: ImageList | None = None,
    ) -> dict[str, Tensor]:
        """The teacher's features of these images, which are padded to `size`.

        `batch` is what the teacher sees of them; without it, it is made where they are not kept.
        """

        def seen() -> ImageList:
            made = batch or self.teacher.transform(images, None)[0]
            assert padded_size(made) == size, "other views"
            return made

        if not self.cache:
            return self._maps(seen())
        return self.cache.maps(
            images,
            size,
            lambda places: self._maps_to_keep(seen(), places),
            marks_of(targets),
            self.low,
        )

    def _maps_to_keep(self, batch: ImageList, places: list[int]) -> dict[str, Tensor]:
        assert self.cache
        sizes = [batch.image_sizes[at] for at in places]
        maps = self._maps(ImageList(batch.tensors[places], sizes))
        of_heads = any("@" in name for name in self.cache.names)
        return {**maps, **head_maps(self.teacher, maps)} if of_heads else maps

    def _maps(self, batch: ImageList) -> dict[str, Tensor]:
        device = batch.tensors.device.type
        before = autocast_dtype(device)
        dtype = self.low or before
        with torch.autocast(device, dtype=dtype, enabled=dtype is not None):
            maps = self.teacher.maps_of(batch)
        # The teacher's heads run as the student's do, and need their inputs in that precision.
        return {name: value if before else value.float() for name, value in maps.items()}


def _task(seen: Sequence[Seen]) -> dict[str, Tensor]:
    """The task's losses over all images that have some, so that each image counts alike."""
    judged = [each for each in seen if each.task]
    images = sum(len(each.images) for each in judged)
    losses: dict[str, Tensor] = {}
    for each in judged:
        for name, loss in each.task.items():
            losses[name] = losses.get(name, 0.0) + len(each.images) / images * loss
    return losses


def build_distiller(
    student: Detector,
    teacher: Detector,
    distill: DistillConfig,
    *,
    steps: int = 1,
    cache: MapCache | None = None,
) -> Distiller:
    """A distiller after the config; the student takes over what `distill.heads` says.

    `steps` are those of the whole training.

    Raises:
        ConfigError: classes, features or heads of the two do not fit.
    """
    if student.classes != teacher.classes:
        plan_sharing(student, teacher, "inherit")  # raises the sentence about the classes
    if student.image_size != teacher.image_size:
        raise ConfigError(
            f"data.image_size: the student is to see {student.image_size} px and "
            f"{distill.teacher} was trained at {teacher.image_size}; both see the same view: "
            f"set image_size: {teacher.image_size}."
        )
    if distill.task_from and not distill.losses:
        raise ConfigError(
            "distill.task_from: until then the terms of distill.losses count alone, and there are "
            "none; name some, or leave task_from out."
        )
    if (resting := idle_from(distill.losses, distill.task_from)) is not None:
        raise ConfigError(
            f"distill.task_from: until {distill.task_from:g} of the training the terms count "
            f"alone, and from {resting:g} on none of them does; let one's schedule reach from 0 to "
            f"{distill.task_from:g}, or leave task_from out."
        )
    plan = plan_sharing(student, teacher, distill.heads, distill.freeze_until)
    if plan.joint and (distill.pseudo is not None or cache):
        raise ConfigError(
            "distill.heads: a teacher that is trained, too (joint), changes at each step: its "
            "boxes are no labels yet, and nothing of it can be kept; leave distill.pseudo and "
            "distill.cache out."
        )
    apply_sharing(plan, student, teacher)
    return Distiller(
        student,
        teacher,
        distill.losses,
        steps=steps,
        plan=plan,
        task_from=distill.task_from,
        thawed_lr=distill.thawed_lr,
        balance=distill.balance,
        pseudo=distill.pseudo,
        ignore=distill.ignore,
        precision=distill.precision,
        cache=cache,
    )
