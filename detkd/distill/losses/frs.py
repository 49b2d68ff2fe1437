"""FRS: feature richness score (Du et al., NeurIPS 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View


class FeatureRichness(nn.Module):
    """Squared distance, each cell weighted by how much the teacher sees an object there.

        L = Σ m (s − t)² / Σ m over the cells of an image,   m = max over anchors of σ(o_t)

    where o_t is the objectness that the teacher's RPN gives to the cell's anchors. No annotation
    is needed, and what the annotator forgot counts too. Mean over channels and images. The
    published 0.002 is of a sum over 256 channels and over levels. The paper weights the RPN's
    answers by the same mask, too; here they are a term of their own, `objectness`.
    """

    needs_equal_width = True
    reads = ("level",)
    published = 256.0
    sums_levels = True

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        objectness = full(view.teacher[f"rpn.objectness@{view.at}"]).sigmoid()
        richness = objectness.amax(1, keepdim=True) * view.valid(student)
        return masked_mean((full(student) - full(teacher)) ** 2, richness)
