"""MGD: masked generative distillation (Yang et al., ECCV 2022)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View


class MaskedGeneration(nn.Module):
    """Make the teacher's features from the student's with cells missing.

        L = mean over cells and channels of (G(s · M) − t)²

    where M drops each cell with probability `mask`, and G is a 3x3 convolution, ReLU and a 3x3
    convolution, trained beside the student and left behind. The student's features need not equal
    the teacher's, only hold what makes them; heads inherited from the teacher then have to adapt.
    So it is not zero when the two agree: its minimum is what a trained G cannot restore. The
    published 5e-7 is of a sum over channels and cells at 800x1344 px.

    Args:
        channels: width of the teacher's feature, given by the distiller.
        mask: share of cells that are dropped.
    """

    needs_equal_width = True
    published = 256 * 22312.0  # channels x mean cells of p2 to p5
    sums_levels = True

    def __init__(self, channels: int, mask: float = 0.45) -> None:
        super().__init__()
        if not 0 <= mask < 1:
            raise ValueError(f"mask is from 0 to below 1, not {mask}")
        self.mask = mask
        self.enter = nn.Conv2d(channels, channels, 3, padding=1)
        self.leave = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        valid = view.valid(student)
        s = full(student)
        kept = valid & (torch.rand(valid.shape, device=s.device) >= self.mask)
        # Padding is dropped, too, before each convolution: the generator must not look at it.
        generated = self.leave(self.enter(s * kept).relu() * valid)
        return masked_mean((generated - full(teacher)) ** 2, valid)
