"""What all distillers share: a student, a teacher that rests, weighted terms, a step count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from detkd.config import PublishedWeight, TermConfig
from detkd.distill.adapters import Adapter
from detkd.distill.balance import Balance, Kind
from detkd.distill.terms import Term
from detkd.errors import ConfigError
from detkd.models.network import Network

Net = TypeVar("Net", bound=Network)


class Teaching(nn.Module, Generic[Net]):
    """A student that learns from a teacher by terms.

    The teacher is in evaluation mode, without gradients, unless it is trained, too; it is not part
    of the state that is saved.

    Args:
        student: trained together with the terms' adapters.
        teacher: read only, unless it is `trained`.
        terms: the distillation losses.
        steps: of the whole training, by which schedules go.
        balance: what is done about terms that pull too hard, as `Balance` says.
        trained: the teacher learns, too.
    """

    step: Tensor  # counts batches; who trains sets it, where a step is of several

    def __init__(
        self,
        student: Net,
        teacher: Net,
        terms: Sequence[TermConfig],
        *,
        steps: int = 1,
        balance: Kind = "fixed",
        trained: bool = False,
    ) -> None:
        super().__init__()
        self.student: Net = student
        self.teacher: Net = teacher
        self.steps, self.trained = steps, trained
        if not trained:
            teacher.eval().requires_grad_(False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.balance = Balance(balance, len(terms))
        if balance == "auto":
            _check_shares(terms)
        self.sizes: dict[str, float] = {}
        self.terms = nn.ModuleList()
        seen: Counter[str] = Counter()
        for config in terms:
            seen[config.name] += 1
            self.terms.append(Term(config, student, teacher, seen[config.name]))

    @property
    def network(self) -> Net:
        """What is judged and kept: the student, with exactly a plain student's weights."""
        return self.student

    def train(self, mode: bool = True) -> Teaching[Net]:
        super().train(mode)
        if not self.trained:
            self.teacher.eval()
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Student, adapters, trainable losses and step count; the teacher has its own file.

        A teacher that is trained, too, is part of it.
        """
        state = super().state_dict(*args, **kwargs)
        if self.trained:
            return state
        prefix = kwargs.get("prefix", "") + "teacher."
        return {key: value for key, value in state.items() if not key.startswith(prefix)}

    def load_state_dict(self, state: Any, strict: bool = True, assign: bool = False) -> Any:
        teacher = {f"teacher.{key}": value for key, value in self.teacher.state_dict().items()}
        return super().load_state_dict({**teacher, **state}, strict=strict, assign=assign)

    def lines(self) -> list[str]:
        """What is done to compare the two, one line each, to be read before the training."""
        told = []
        for term in self.at_step()[0]:
            if self.balance.kind == "auto" and term.weight > 1:
                told.append(
                    f"{term.label}: its weight of {term.weight:g} is a share of the task's pull "
                    f"(distill.balance: auto), so it pulls {term.weight:g} times as hard"
                )
            told += [
                f"{term.label}: the student's {name} goes through a 1x1 convolution from "
                f"{adapter.project.in_channels} to the teacher's {adapter.project.out_channels} "
                "channels"
                for name, adapter in term.adapters.items()
                if isinstance(adapter, Adapter) and isinstance(adapter.project, nn.Conv2d)
            ]
        return told

    def at_step(self) -> tuple[list[Term], list[float]]:
        """The terms, and the weight of each at this step: 0 where it is off."""
        terms: list[Term] = list(self.terms)  # type: ignore[arg-type]
        return terms, [term.at_step(int(self.step), self.steps) for term in terms]

    def balanced(
        self,
        task: Mapping[str, Tensor],
        found: Sequence[Mapping[str, Tensor]],
        weights: Sequence[float],
        taps: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """The terms' losses by name, each times the factor that balances it against the task.

        Args:
            task: the task's losses; those of a teacher that is trained, too, are no measure.
            found: the weighted losses of each term, none of those that are off.
            weights: of the terms.
            taps: outputs of the student's backbone, at which pulls are measured.
        """
        own = [loss for name, loss in task.items() if of_student(name)]
        total = sum(own, start=taps[0].new_zeros(()))
        totals = [sum(each.values(), start=total.new_zeros(())) if each else None for each in found]
        factors = self.balance(int(self.step), total, totals, weights, taps)
        losses: dict[str, Tensor] = {}
        self.sizes = {}
        for at, (factor, each) in enumerate(zip(factors, found, strict=True)):
            losses |= {name: factor * loss for name, loss in each.items()}
            if at in self.balance.pulls:
                self.sizes |= {name: float((factor * each[name] / total).detach()) for name in each}
        return losses

    def at_rest(self, weights: Sequence[float], like: Tensor) -> dict[str, Tensor]:
        """The losses of terms that are off: zero, with gradients of zero."""
        losses: dict[str, Tensor] = {}
        for term, weight in zip(self.terms, weights, strict=True):
            assert isinstance(term, Term)
            if not weight:
                losses |= dict.fromkeys(term.names(), idle(term, like))
        return losses

    def report(self) -> dict[str, float]:
        """What was measured at the last step, if it was: each term against the task.

        `size/hint@p3` is its loss, as it counts, over the task's, `pull/hint` the same of their
        gradients at the backbone's outputs, before a factor of `balance`.
        """
        pulls = {f"pull/{self.terms[at].label}": pull for at, pull in self.balance.pulls.items()}
        return {**{f"size/{name}": size for name, size in self.sizes.items()}, **pulls}


OF_TEACHER = "loss_teacher_"  # what a teacher that is trained, too, has of the task


def of_task(name: str) -> bool:
    """Whether a loss of this name is the task's: terms are called `hint@p3` or `module:Loss@p3`."""
    return name.startswith("loss_") and not {"@", ":"} & set(name)


def of_student(name: str) -> bool:
    """Whether it is the student's own of the task: terms are measured against these."""
    return of_task(name) and not name.startswith(OF_TEACHER)


def idle(module: nn.Module, like: Tensor) -> Tensor:
    """Zero, with a gradient of zero: where processes share weights, those at rest need one, too."""
    return like.new_zeros(()) + sum(p.sum() * 0.0 for p in module.parameters() if p.requires_grad)


def _check_shares(terms: Sequence[TermConfig]) -> None:
    """Refuse published weights where a weight is a share of the task's pull."""
    for term in terms:
        if isinstance(term.weight, PublishedWeight):
            raise ConfigError(
                f"distill.losses: '{term.name}': with distill.balance: auto a weight is the term's "
                "pull as a share of the task's, which no published weight is; give a number, such "
                "as 0.5."
            )
