"""Objectness of anchors (as in Chen et al., NIPS 2017, and ALDI, TMLR 2025)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.kl import coin_divergences
from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class Objectness(nn.Module):
    """Match how sure the two RPNs are that an anchor holds an object.

        L = mean over sampled anchors of KL(o_t ‖ o_s),   o = (σ(z), 1 − σ(z))

    Half of the anchors of an image are those that the teacher finds most likely, the rest is drawn
    from all others: over 99 % of all anchors are easy background, and a mean over them all teaches
    nothing. No annotation is needed. Published with weight 1 without labels, 0.1 beside them.
    """

    needs_equal_width = True
    reads = ("rpn.logits",)

    def forward(
        self, student: Float[Tensor, "a 1"], teacher: Float[Tensor, "a 1"], view: View
    ) -> Float[Tensor, ""]:
        return coin_divergences(full(student), full(teacher)).sum() / max(1, len(student))
