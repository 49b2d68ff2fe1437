"""How strongly each term pulls at the student's backbone, and what is done about it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Kind = Literal["fixed", "auto", "surgery"]
EVERY = 50  # steps between two measurements, where they only tell
SLOWNESS = 0.8  # of the factors in the running mean of `auto`


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
      pass through neck and heads each step.

    `pulls` holds what was measured last, by the place of the term.
    """

    factors: Tensor
    begun: Tensor

    def __init__(self, kind: Kind, terms: int) -> None:
        super().__init__()
        self.kind, self.every = kind, EVERY
        self.register_buffer("factors", torch.ones(terms))
        self.register_buffer("begun", torch.zeros(terms, dtype=torch.bool))
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
        due = step % self.every == 0 or self.kind == "surgery"
        taps = [tap for tap in taps if tap.requires_grad]
        if due and taps and task.requires_grad:
            pull_of_task = _pull(task, taps)
            for at, term in enumerate(terms):
                if term is None or not term.requires_grad:
                    continue
                pull = _pull(term, taps)
                self.pulls[at] = float(pull.norm() / pull_of_task.norm().clamp(min=1e-12))
                if self.kind == "auto" and pull_of_task.any() and pull.any():
                    self._learn(at, pull_of_task.norm() * weights[at] / pull.norm())
                if self.kind == "surgery" and torch.dot(pull, pull_of_task) < 0:
                    ones[at] = torch.zeros_like(ones[at])
        return list(self.factors.clone()) if self.kind == "auto" else ones

    def _learn(self, at: int, factor: Tensor) -> None:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.all_reduce(factor)
            factor = factor / torch.distributed.get_world_size()
        old = self.factors[at] if self.begun[at] else factor
        self.factors[at] = SLOWNESS * old + (1 - SLOWNESS) * factor
        self.begun[at] = True


def _pull(loss: Tensor, taps: Sequence[Tensor]) -> Tensor:
    """The gradient at the backbone's outputs as one vector; zeros where a loss does not reach."""
    found = torch.autograd.grad(loss, taps, retain_graph=True, allow_unused=True)
    return torch.cat(
        [
            (torch.zeros_like(tap) if gradient is None else gradient).flatten().float()
            for tap, gradient in zip(taps, found, strict=True)
        ]
    )
