"""Distillation of classifiers: the detectors' terms and losses, at logits, pooled and c2..c5."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkd.config import TeachConfig, TermConfig
from detkd.distill.balance import Kind
from detkd.distill.cache import MapCache, marks_of
from detkd.distill.taps import ONE_CELL, check_feature
from detkd.distill.teaching import Teaching
from detkd.distill.view import View
from detkd.errors import ConfigError
from detkd.models.classifier import Classifier
from detkd.models.folding import fold_norms


@dataclass(frozen=True)
class BothRead:
    """What student and teacher said of one batch, by the names of their features."""

    student: Mapping[str, Tensor]
    teacher: Mapping[str, Tensor]


class ClassifierDistiller(Teaching[Classifier]):
    """`model(images, targets)` gives the student's loss and one more for each term and feature.

    The teacher is read once a step on the very images that the student sees, mixed ones included,
    or not at all when no term is on. In evaluation the distiller is the student.

    Args:
        student: trained together with the adapters.
        teacher: read only, and its backbone's norms are folded.
        terms: the distillation losses.
        steps: of the whole training, by which schedules go.
        balance: what is done about terms that pull too hard, as `Balance` says.
        cache: where what the teacher says is kept, with all that the terms read.
    """

    def __init__(
        self,
        student: Classifier,
        teacher: Classifier,
        terms: Sequence[TermConfig],
        *,
        steps: int = 1,
        balance: Kind = "fixed",
        cache: MapCache | None = None,
    ) -> None:
        super().__init__(student, teacher, terms, steps=steps, balance=balance)
        fold_norms(teacher.backbone, teacher.image_size)
        self.cache = cache
        # Whether both normalise images alike, so that one batch serves them.
        self.alike = torch.equal(student.mean, teacher.mean) and torch.equal(
            student.std, teacher.std
        )

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if not self.training:
            return self.student(images)
        assert targets is not None
        terms, weights = self.at_step()
        batch = self.student.batch(images)
        said = self.student.read(batch)
        losses = {"loss_label": self.student.task(said, targets)}
        found: list[dict[str, Tensor]] = [{} for _ in terms]
        if any(weights):
            theirs = self._ask(images, targets, batch if self.alike else None)
            outputs, view = BothRead(said, theirs), view_of(images, targets, theirs)
            with torch.autocast(device_type=images[0].device.type, enabled=False):
                for sums, term, weight in zip(found, terms, weights, strict=True):
                    each = term(outputs, view) if weight else {}
                    sums |= {k: weight / len(each) * loss for k, loss in each.items()}
        taps = [said[name] for name in self.student.backbone.features]
        losses |= self.balanced(losses, found, weights, taps)
        losses |= self.at_rest(weights, images[0])
        self.step += 1
        return losses

    @torch.no_grad()
    def _ask(
        self, images: list[Tensor], targets: list[dict[str, Tensor]], batch: Tensor | None
    ) -> dict[str, Tensor]:
        """What the teacher says of these images; where it is cached, what is kept of it."""
        if not self.cache:
            return self.teacher.read(self.teacher.batch(images) if batch is None else batch)

        def read(places: list[int]) -> dict[str, Tensor]:
            if batch is not None:
                return self.teacher.read(batch[places])
            return self.teacher.read(self.teacher.batch([images[at] for at in places]))

        height, width = (int(side) for side in images[0].shape[-2:])
        return self.cache.maps(images, (height, width), read, marks_of(targets))


def view_of(
    images: Sequence[Tensor], targets: Sequence[dict[str, Tensor]], teacher: Mapping[str, Tensor]
) -> View:
    """What both saw: whole images, in each of which the one object fills the image.

    So losses that look near objects look everywhere. `labels` [N] are -1 for mixed images.
    """
    height, width = (int(side) for side in images[0].shape[-2:])
    device = images[0].device
    box = torch.tensor([[0.0, 0.0, width, height]], device=device)
    labels = [
        torch.tensor(-1, device=device) if "probabilities" in target else target["label"]
        for target in targets
    ]
    return View(
        [(height, width)] * len(images),
        (height, width),
        [{"boxes": box} for _ in targets],
        teacher=teacher,
        truth={"labels": torch.stack(labels)},
    )


def build_classifier_distiller(
    student: Classifier,
    teacher: Classifier,
    distill: TeachConfig,
    *,
    steps: int = 1,
    images: int = 1,
    views: int | None = None,
) -> ClassifierDistiller:
    """A distiller after the config.

    Args:
        student, teacher: of the same classes and image size.
        distill: the terms, and whether what the teacher says is kept.
        steps: of the whole training.
        images: that are trained on, and
        views: how many views there are of each (None: ever new ones), for the cache.

    Raises:
        ConfigError: classes, sizes or features of the two do not fit, or views that never come
            again are to be kept.
    """
    if not distill.losses:
        raise ConfigError(
            "distill.losses: names no term, so that the teacher says nothing; leave the key out "
            "for softened classes, or leave 'distill' out."
        )
    if student.classes != teacher.classes:
        differing = sorted(set(student.classes) ^ set(teacher.classes))
        what = f"only one has '{differing[0]}'" if differing else "their order differs"
        raise ConfigError(
            f"{distill.teacher} knows {len(teacher.classes)} classes and the training images have "
            f"{len(student.classes)}: {what}. Train both on the same classes (data.leave_out)."
        )
    if student.image_size != teacher.image_size:
        raise ConfigError(
            f"data.image_size: the student is to see {student.image_size} px and "
            f"{distill.teacher} was trained at {teacher.image_size}; both see the same view: "
            f"set image_size: {teacher.image_size}."
        )
    cache = None
    if distill.cache:
        names = sorted({name for term in distill.losses for name in term.at})
        for name in names:
            check_feature(name, teacher, "teacher")
        held = all(name in ONE_CELL for name in names)  # small enough for the memory
        folder = Path(distill.cache_folder) if distill.cache_folder else own_folder()
        cache = MapCache(folder, teacher, names, exact=True, hold=held)
        cache.plan(images, views, (student.image_size, student.image_size))
    return ClassifierDistiller(
        student, teacher, distill.losses, steps=steps, balance=distill.balance, cache=cache
    )


def own_folder() -> Path:
    """Where detkd keeps what it can make again."""
    return Path(os.environ.get("DETKD_CACHE") or Path.home() / ".cache" / "detkd") / "teachers"
