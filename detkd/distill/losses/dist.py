"""DIST: relations of predictions (Huang et al., NeurIPS 2022)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View

DEAD = 1e-12  # squared length under which a row has no pattern


class PredictionRelations(nn.Module):
    """Match which classes a proposal resembles, and which proposals resemble a class.

        L = T² · ( β · (1 − mean over proposals of r(p_s, p_t))
                 + γ · (1 − mean over classes of r(p_s, p_t)) ),   p = softmax(z / T)

    with Pearson's r along classes, then along proposals. A student too weak for the teacher's
    exact probabilities can still keep their order. Rows and columns that are constant in either
    network are left out. The published detector has β = γ = 1, T = 1 and weight 1.

    Args:
        beta, gamma: weights of the two parts.
        temperature: T.
    """

    needs_equal_width = True
    reads = ("roi.logits", "cross.logits", "logits")

    def __init__(self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0) -> None:
        super().__init__()
        self.beta, self.gamma, self.temperature = beta, gamma, temperature

    def forward(
        self, student: Float[Tensor, "r k"], teacher: Float[Tensor, "r k"], view: View
    ) -> Float[Tensor, ""]:
        s, t = ((full(x) / self.temperature).softmax(1) for x in (student, teacher))
        if len(s) < 1:
            return full(student).sum() * 0.0
        total = self.beta * _distance(s, t) + self.gamma * _distance(s.T, t.T)
        return self.temperature**2 * total


def _distance(s: Tensor, t: Tensor) -> Tensor:
    """1 − Pearson's r, mean over rows; 0, with zero gradients, where no row has a pattern."""
    s, t = s - s.mean(1, keepdim=True), t - t.mean(1, keepdim=True)
    square_s, square_t, product = (s * s).sum(1), (t * t).sum(1), (s * t).sum(1)
    alive = (square_s > DEAD) & (square_t > DEAD)
    if not bool(alive.any()):
        return s.sum() * 0.0
    return 1 - (product[alive] / (square_s[alive] * square_t[alive]).sqrt()).mean()
