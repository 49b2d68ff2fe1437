"""DKD: decoupled knowledge distillation (Zhao et al., CVPR 2022)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View
from detkd.models.roi_heads import likeliest


class DecoupledLogits(nn.Module):
    """KL of the logits in two parts: how sure the teacher is, and what else it might be.

    For proposals of class y (background is one of them), b = (p_y, 1 − p_y) and p̂ the softmax
    over the other classes:

        L = T² · mean over proposals of  α · KL(b_t ‖ b_s) + β · KL(p̂_t ‖ p̂_s)

    In plain KL the second part has the weight 1 − p_y: where the teacher is sure, what it knows of
    the other classes is silenced. y is the truth of the proposal; in a frame without annotations
    it is the teacher's own choice. For a classifier the rows are images, without a background; of a
    mixed image y is the teacher's choice. The published detector has α = 1, β = 0.25, T = 1 and
    weight 1.

    Args:
        alpha, beta: weights of the two parts.
        temperature: T.
    """

    needs_equal_width = True
    reads = ("roi.logits", "cross.logits", "logits")

    def __init__(self, alpha: float = 1.0, beta: float = 0.25, temperature: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta, self.temperature = alpha, beta, temperature

    def forward(
        self, student: Float[Tensor, "r k"], teacher: Float[Tensor, "r k"], view: View
    ) -> Float[Tensor, ""]:
        s, t = full(student) / self.temperature, full(teacher) / self.temperature
        target = target_classes(t, view)[:, None]
        sure = _divergence(_binary(s, target), _binary(t, target))
        others = torch.ones_like(s, dtype=torch.bool).scatter_(1, target, False)
        rest_s, rest_t = (x[others].view(len(x), x.shape[1] - 1).log_softmax(1) for x in (s, t))
        total = self.alpha * sure + self.beta * _divergence(rest_s, rest_t)
        return self.temperature**2 * total / max(1, len(s))


def target_classes(teacher: Tensor, view: View) -> Tensor:
    """The class of each proposal [R]: the truth, or the teacher's choice where there is none."""
    chosen = likeliest(teacher, view.classifier)
    if "labels" not in view.truth:
        return chosen
    labels = view.truth["labels"]
    return torch.where(labels < 0, chosen, labels)


def _binary(logits: Tensor, target: Tensor) -> Tensor:
    """Log-probabilities [R, 2] of the target class and of all others together."""
    others = logits.scatter(1, target, float("-inf")).logsumexp(1, keepdim=True)
    margin = logits.gather(1, target) - others
    return torch.cat([F.logsigmoid(margin), F.logsigmoid(-margin)], 1)


def _divergence(log_s: Tensor, log_t: Tensor) -> Tensor:
    return (log_t.exp() * (log_t - log_s)).sum()
