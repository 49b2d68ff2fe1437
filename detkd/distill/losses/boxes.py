"""Boxes of the teacher's class (as in Wang et al., CrossKD, CVPR 2024, for two stages)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View
from detkd.models.roi_heads import object_scores


class TeacherBoxes(nn.Module):
    """Distance of the box deltas for the class that the teacher sees in a proposal.

        L = Σ_r w_r mean over 4 deltas of |s − t| / Σ_r w_r,   w = max over objects' classes of p_t

    Of the K + 1 boxes that a RoI head gives to a proposal only that of its class means anything,
    and only as much as the teacher believes that there is an object. No annotation is needed.
    Published with weight 1.
    """

    needs_equal_width = True
    reads = ("roi.boxes", "cross.boxes")

    def forward(
        self, student: Float[Tensor, "r d"], teacher: Float[Tensor, "r d"], view: View
    ) -> Float[Tensor, ""]:
        scores = object_scores(full(view.teacher["roi.logits"]), view.classifier)
        weights, classes = scores.max(1)
        s, t = (of_class(full(x), classes + 1) for x in (student, teacher))
        distance = (s - t).abs().mean(1)
        return (weights * distance).sum() / weights.sum().clamp(min=1e-12)


def of_class(deltas: Tensor, classes: Tensor) -> Tensor:
    """The deltas [R, 4] of one class a row, of those [R, 4(K+1)] of all."""
    each = deltas.view(len(deltas), deltas.shape[1] // 4, 4)
    return each.gather(1, classes[:, None, None].expand(-1, 1, 4)).squeeze(1)
