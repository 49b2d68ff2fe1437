"""FitNets hint (Romero et al., ICLR 2015)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View


class Hint(nn.Module):
    """Squared distance of the student's (adapted) features from the teacher's.

        L = mean over cells and channels of (s − t)²

    over all cells of the images, or with `mask: near_objects` over those inside truth boxes: the
    background is most of a micrograph and would be most of the loss. Images without an object
    then count for nothing.
    """

    needs_equal_width = True

    def __init__(self, mask: str = "everywhere") -> None:
        super().__init__()
        if mask not in ("everywhere", "near_objects"):
            raise ValueError(f"mask is 'everywhere' or 'near_objects', not {mask!r}")
        self.mask = mask

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        mask = view.valid(student)
        if self.mask == "near_objects":
            mask = mask & view.near_objects(student)
        return masked_mean((full(student) - full(teacher)) ** 2, mask)
