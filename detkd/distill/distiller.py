"""Distillation as a module: a student and its teacher, with a detector's own signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from detkd.config import DistillConfig, TermConfig
from detkd.distill.balance import Balance, Kind
from detkd.distill.outputs import Outputs
from detkd.distill.sharing import (
    Plan,
    apply_sharing,
    frozen_norms,
    frozen_parameters,
    plan_sharing,
)
from detkd.distill.taps import Reading, read
from detkd.distill.terms import Term
from detkd.distill.view import View
from detkd.errors import ConfigError
from detkd.models.detector import Detector


class Distiller(nn.Module):
    """`model(images, targets)` gives the student's losses and one more for each term and feature.

    A term's loss is the mean over its features, times its weight; it appears as `pkd@p3`. The
    teacher is in evaluation mode, without gradients, and read once a step on the very tensors
    that the student sees, or not at all when no term is on; it is not part of the state that is
    saved. In evaluation the distiller is the student.

    Args:
        student: trained together with the adapters.
        teacher: read only.
        terms: the distillation losses.
        steps: of the whole training, by which schedules go.
        plan: what the student took over, and what of it is frozen until when.
        task_from: share of the training from which the student's own losses count.
        thawed_lr: factor on the learning rate of what was frozen and is trained on.
        balance: what is done about terms that pull too hard, as `Balance` says.
    """

    step: Tensor

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
    ) -> None:
        super().__init__()
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self.steps, self.plan, self.task_from = steps, plan or Plan(), task_from
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self._to_thaw = frozen_parameters(self.plan, student) if self.plan.until < 1 else {}
        self.lr_factors = {f"student.{name}": thawed_lr for name in self._to_thaw}
        self.balance = Balance(balance, len(terms))
        self.terms = nn.ModuleList([Term(config, student, teacher) for config in terms])

    @property
    def network(self) -> Detector:
        """What is judged and kept: the student, with exactly a plain student's weights."""
        return self.student

    def train(self, mode: bool = True) -> Distiller:
        super().train(mode)
        self.teacher.eval()
        self._freeze()
        return self

    def _freeze(self) -> None:
        """Keep the planned parts as they are, until they are to be trained on."""
        thawed = int(self.step) >= self.plan.until * self.steps
        for norm in frozen_norms(self.plan, self.student):
            norm.train(self.training and thawed)
        for parameter in self._to_thaw.values():
            parameter.requires_grad_(thawed)

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
        step = int(self.step)
        terms: list[Term] = list(self.terms)  # type: ignore[arg-type]
        weights = [term.at_step(step, self.steps) for term in terms]
        if self._to_thaw:
            self._freeze()
        with read(self.student) as reading:
            losses = self.student(images, targets)
        if step < self.task_from * self.steps:
            losses = {name: 0.0 * loss for name, loss in losses.items()}
        if any(weights):
            found = self._compare(images, reading, terms, weights)
            totals = [sum(each.values()) if each else None for each in found]
            taps = [reading.features[name] for name in self.student.backbone.body.features]
            factors = self.balance(step, sum(losses.values()), totals, weights, taps)
            for factor, each in zip(factors, found, strict=True):
                losses |= {name: factor * loss for name, loss in each.items()}
        for term, weight in zip(terms, weights, strict=True):
            if not weight:
                # Adapters of a term that is off still need a gradient where processes share them.
                idle = sum(p.sum() * 0.0 for p in term.parameters())
                losses |= {name: images[0].new_zeros(()) + idle for name in term.names()}
        self.step += 1
        return losses

    def _compare(
        self,
        images: list[Tensor],
        reading: Reading,
        terms: Sequence[Term],
        weights: Sequence[float],
    ) -> list[dict[str, Tensor]]:
        """The weighted losses of each term by name, none of those that are off."""
        with torch.no_grad():
            batch, _ = self.teacher.transform(images, None)
            assert tuple(batch.tensors.shape[-2:]) == reading.padded_size, "the views differ"
            maps = self.teacher.backbone.body(batch.tensors)
            maps = {**maps, **self.teacher.backbone.neck(maps)}
        outputs = Outputs(self.student, reading, self.teacher, maps)
        view = View.of_outputs(reading, outputs)
        found: list[dict[str, Tensor]] = []
        with torch.autocast(device_type=batch.tensors.device.type, enabled=False):
            for term, weight in zip(terms, weights, strict=True):
                each = term(outputs, view) if weight else {}
                found.append({name: weight / len(each) * loss for name, loss in each.items()})
        return found

    def report(self) -> dict[str, float]:
        """What was measured at the last step: each term's pull at the backbone over the task's."""
        return {
            f"pull/{self.terms[at].config.name}": pull  # type: ignore[union-attr]
            for at, pull in self.balance.pulls.items()
        }


def build_distiller(
    student: Detector, teacher: Detector, distill: DistillConfig, *, steps: int = 1
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
    plan = plan_sharing(student, teacher, distill.heads, distill.freeze_until)
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
    )
