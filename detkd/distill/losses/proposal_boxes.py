"""Boxes of the RPN where the teacher sees an object (as in ALDI, TMLR 2025)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, mean_over
from detkd.distill.view import View


class ProposalBoxes(nn.Module):
    """Distance of the deltas of the anchors that the teacher takes for objects.

        L = mean over sampled anchors with σ(o_t) > threshold, and over 4 deltas, of |s − t|

    Zero where the teacher sees none. No annotation is needed.

    Args:
        threshold: of the teacher's objectness.
    """

    needs_equal_width = True
    reads = ("rpn.boxes",)

    def __init__(self, threshold: float = 0.5) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(
        self, student: Float[Tensor, "a 4"], teacher: Float[Tensor, "a 4"], view: View
    ) -> Float[Tensor, ""]:
        sees_object = full(view.teacher["rpn.logits"]).sigmoid().squeeze(1) > self.threshold
        return mean_over((full(student) - full(teacher)).abs().mean(1), sees_object)
