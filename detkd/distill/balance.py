"""How strongly each term pulls at the student's backbone, and what is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["fixed", "auto", "surgery"]
EVERY = 50  # steps between two measurements, where they only tell
SLOWNESS = 0.8  # of the factors in the running mean of `auto`
SCALE = 2.0**10  # of what is differentiated: small gradients are lost in half precision (fp16)
NEVER = -1  # the step at which a term was measured that has not been


class Balance(nn.Module):
    """Factors on the terms from the gradients at the backbone's outputs.

    With g_0 the gradient of the task's losses with respect to the student's c2..c5, and g_i that
    of term i with its weight w_i:

    - fixed: all factors are 1; ‖g_i‖ / ‖g_0‖ is measured now and then and told;
    - auto: the factor w_i ‖g_0‖ / ‖g_i‖ in a running mean, so that a weight of 0.5 means half of
      the task's pull, whatever the loss (gradient normalisation as in GradNorm, Chen et al., ICML
      2018, without its learned part);
    - surgery: a term whose gradient points against the task's (a negative inner product) is left
      out of this step, as in Student Customized KD (Zhu and Wang, ICCV 2021). It costs a backward
      pass through neck and heads of the task and of each term, at each step.

    A term is measured at the first step at which it and the task both count, and from then on no
    more often than every 50 of its steps. `pulls` holds what was measured last, by the place of the
    term; it is empty where nothing was.
    """

    factors: Tensor
    measured: Tensor

    def __init__(self, kind: Kind, terms: int) -> None:
        super().__init__()
        self.kind, self.every = kind, EVERY
        self.register_buffer("factors", torch.ones(terms))
        self.register_buffer("measured", torch.full((terms,), NEVER))
        self.pulls: dict[int, float] = {}

    def forward(
        self,
        step: int,
        task: Tensor,
        terms: Sequence[Tensor | None],
        weights: Sequence[float],
        taps: Sequence[Tensor],
    ) -> list[Tensor]:
        """A factor for each term; `terms` are weighted, and None where a term is off."""
        self.pulls = {}
        ones = list(torch.ones_like(self.factors))
        due = [at for at, term in enumerate(terms) if term is not None and self._due(at, step)]
        taps = [tap for tap in taps if tap.requires_grad]
        # Where the annotations do not count yet, there is nothing to be a share of.
        if due and taps and task.requires_grad and task.detach().any():
            pull_of_task = _pull(task, taps)
            for at in due:
                pull = _pull(terms[at], taps)
                self.pulls[at] = float(pull.norm() / pull_of_task.norm().clamp(min=1e-12))
                if self.kind == "auto":
                    self._learn(at, step, pull_of_task.norm() * weights[at], pull.norm())
                else:
                    self.measured[at] = step
                if self.kind == "surgery" and torch.dot(pull, pull_of_task) < 0:
                    ones[at] = torch.zeros_like(ones[at])
        return list(self.factors.clone()) if self.kind == "auto" else ones

    def _due(self, at: int, step: int) -> bool:
        last = int(self.measured[at])
        return self.kind == "surgery" or last == NEVER or not 0 <= step - last < self.every

    def _learn(self, at: int, step: int, wanted: Tensor, pull: Tensor) -> None:
        """Take a measurement into the running mean of a factor, the same in all processes.

        One whose images have nothing for the term adds none, and must take part all the same.
        """
        found = torch.stack([wanted / pull, torch.ones_like(pull)])
        if not (wanted > 0 and pull > 0):
            found = torch.zeros_like(found)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(found)
        factor, processes = found
        begun = int(self.measured[at]) != NEVER
        if processes:
            old = self.factors[at] if begun else factor / processes
            self.factors[at] = SLOWNESS * old + (1 - SLOWNESS) * factor / processes
        if processes or begun:  # else it is tried again at its next step
            self.measured[at] = step


def _pull(loss: Tensor | None, taps: Sequence[Tensor]) -> Tensor:
    """The gradient at the backbone's outputs as one vector; zeros where a loss does not reach."""
    found: Sequence[Tensor | None] = [None] * len(taps)
    if loss is not None and loss.requires_grad:
        found = torch.autograd.grad(SCALE * loss, taps, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(tap) if gradient is None else gradient).flatten().float() / SCALE
            for tap, gradient in zip(taps, found, strict=True)
        ]
    )
