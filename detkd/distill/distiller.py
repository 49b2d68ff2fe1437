"""Distillation as a module: a student and its teacher, with a detector's own signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkd.config import DistillConfig, TermConfig
from detkd.distill.adapters import Adapter
from detkd.distill.losses import build_loss
from detkd.distill.losses.reduction import full
from detkd.distill.proposals import roi_logits
from detkd.distill.sharing import Plan, apply_sharing, frozen_norms, plan_sharing
from detkd.distill.taps import HEAD_FEATURES, check_feature, read
from detkd.distill.view import View
from detkd.errors import ConfigError
from detkd.models.detector import Detector


class Distiller(nn.Module):
    """`model(images, targets)` gives the student's losses and one more for each term and feature.

    A term's loss is the mean over its features, times its weight; it appears as `pkd@p3`. The
    teacher is in evaluation mode, without gradients, and read once a step on the very tensors
    that the student sees; it is not part of the state that is saved. In evaluation the distiller
    is the student.

    Args:
        student: trained together with the adapters.
        teacher: read only.
        terms: the distillation losses.
        warmup: steps over which the terms' weights grow from 0.
        plan: what the student took over, and whether that is frozen.
    """

    steps: Tensor

    def __init__(
        self,
        student: Detector,
        teacher: Detector,
        terms: Sequence[TermConfig],
        *,
        warmup: int = 0,
        plan: Plan | None = None,
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self.terms, self.warmup = list(terms), warmup
        self.plan = plan or Plan()
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.losses = nn.ModuleList([build_loss(term.name, term.options) for term in self.terms])
        self.adapters = nn.ModuleDict()
        for at, (term, loss) in enumerate(zip(self.terms, self.losses, strict=True)):
            for name in term.at:
                check_feature(name, student, "student")
                check_feature(name, teacher, "teacher")
                if name not in HEAD_FEATURES:
                    self.adapters[f"{at}_{name}"] = Adapter(
                        student.features[name],
                        teacher.features[name],
                        equal_width=getattr(loss, "needs_equal_width", True),
                    )
        self._needs_heads = any(name in HEAD_FEATURES for term in self.terms for name in term.at)

    @property
    def network(self) -> Detector:
        """What is judged and kept: the student, with exactly a plain student's weights."""
        return self.student

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        self.teacher.eval()
        for norm in frozen_norms(self.plan, self.student):
            norm.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Student, adapters, trainable losses and step count; the teacher has its own file."""
        state = super().state_dict(*args, **kwargs)
        prefix = kwargs.get("prefix", "") + "teacher."
        return {key: value for key, value in state.items() if not key.startswith(prefix)}

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        teacher = {f"teacher.{key}": value for key, value in self.teacher.state_dict().items()}
        return super().load_state_dict({**teacher, **state}, strict=strict, assign=assign)

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if not self.training:
            return self.student(images)
        with read(self.student) as student:
            losses = self.student(images, targets)
        with torch.no_grad():
            batch, _ = self.teacher.transform(images, None)
            assert tuple(batch.tensors.shape[-2:]) == student.padded_size, "the views differ"
            body = self.teacher.backbone.body(batch.tensors)
            teacher = {**body, **self.teacher.backbone.neck(body)}
            if self._needs_heads:
                teacher["roi.logits"] = roi_logits(self.teacher, teacher, student)
        view = View(student.image_sizes, student.padded_size, student.targets)
        grown = 1.0
        if self.warmup:
            grown = min(1.0, float(self.steps) / self.warmup)
            self.steps += 1
        with torch.autocast(device_type=batch.tensors.device.type, enabled=False):
            for at, (term, loss) in enumerate(zip(self.terms, self.losses, strict=True)):
                for name in term.at:
                    ours, theirs = full(student.features[name]), full(teacher[name])
                    if name not in HEAD_FEATURES:
                        ours = self.adapters[f"{at}_{name}"](ours, theirs)
                    share = grown * term.weight / len(term.at)
                    losses[f"{term.name}@{name}"] = share * loss(ours, theirs, view)
        return losses


def build_distiller(student: Detector, teacher: Detector, distill: DistillConfig) -> Distiller:
    """A distiller after the config; the student takes over what `distill.heads` says.

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
    plan = plan_sharing(student, teacher, distill.heads)
    apply_sharing(plan, student, teacher)
    return Distiller(student, teacher, distill.losses, warmup=distill.warmup, plan=plan)
