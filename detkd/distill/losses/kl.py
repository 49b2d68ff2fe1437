"""Softened logits (Hinton, Vinyals and Dean, 2015), of a RoI head or of a classifier."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class LogitsKL(nn.Module):
    """Match the class probabilities that the two networks give to the same proposals or images.

        L = T² · 1/R Σ_r Σ_k p_t (log p_t − log p_s),   p = softmax(z / T)

    over the K + 1 classes (background first) of R proposals, or the K classes of R images. T = 1
    suits a RoI head, most of whose proposals are background: a higher one flattens what the teacher
    is sure of. Classifiers take 3 or 4.
    """

    needs_equal_width = True
    reads = ("roi.logits", "cross.logits", "logits")

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, student: Float[Tensor, "r k"], teacher: Float[Tensor, "r k"], view: View
    ) -> Float[Tensor, ""]:
        divergence = divergences(full(student), full(teacher), self.temperature).sum()
        return self.temperature**2 * divergence / max(1, len(student))


def divergences(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL of the softened probabilities of each row [R] of logits [R, K]."""
    log_s, log_t = (torch.log_softmax(x / temperature, dim=1) for x in (student, teacher))
    return (log_t.exp() * (log_t - log_s)).sum(1)
