"""Softened logits (Hinton, Vinyals and Dean, 2015), of a RoI head or of a classifier."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View
from detkd.models.roi_heads import CLASSIFIERS


class LogitsKL(nn.Module):
    """Match the class probabilities that the two networks give to the same proposals or images.

        L = T² · 1/R Σ_r Σ_k p_t (log p_t − log p_s),   p = softmax(z / T)

    over the K + 1 classes (background first) of R proposals, or the K classes of R images. T = 1
    suits a RoI head, most of whose proposals are background: a higher one flattens what the teacher
    is sure of. Classifiers take 3 or 4.

    Where the RoI head judges each class alone (`model.classifier: sigmoid`), each is a coin:

        L = T² · 1/R Σ_r Σ_k ( p_t log p_t/p_s + (1 − p_t) log (1 − p_t)/(1 − p_s) ),   p = σ(z / T)

    For one class that is the first form's, of this class and the background.
    """

    needs_equal_width = True
    reads = ("roi.logits", "cross.logits", "logits")
    classifiers = CLASSIFIERS

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self, student: Float[Tensor, "r k"], teacher: Float[Tensor, "r k"], view: View
    ) -> Float[Tensor, ""]:
        rows = divergences(full(student), full(teacher), self.temperature, view.classifier)
        return self.temperature**2 * rows.sum() / max(1, len(student))


def divergences(
    student: Tensor, teacher: Tensor, temperature: float, classifier: str = "softmax"
) -> Tensor:
    """KL of the softened probabilities of each row [R] of logits [R, K]."""
    if classifier == "sigmoid":
        return coin_divergences(student / temperature, teacher / temperature).sum(1)
    log_s, log_t = (torch.log_softmax(x / temperature, dim=1) for x in (student, teacher))
    return (log_t.exp() * (log_t - log_s)).sum(1)


def coin_divergences(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p_t ‖ p_s) of each pair of logits, of the same shape, with p = (σ(z), 1 − σ(z))."""
    heads = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    return heads + (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
