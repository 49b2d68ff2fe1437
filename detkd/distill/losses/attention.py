"""Attention transfer (Zagoruyko and Komodakis, ICLR 2017)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class AttentionTransfer(nn.Module):
    """Match where the two networks look.

    Each feature map is reduced to one map of squared activations, flattened and scaled to length
    one; the loss is the squared distance of the two, mean over images (each map has length one,
    so the sum over cells needs no further scale):

        L = 1/N Σ_n ‖ q(s_n) − q(t_n) ‖²,  q(f) = m / ‖m‖₂,  m = Σ_c f_c²

    Widths may differ. Zero when the maps agree up to a factor. Padding is left out.
    """

    needs_equal_width = False
    needs_cells = True
    sums_levels = True
    published = 1 / 64  # the public code means over the 8x8 cells of a last stage, too

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n d h w"], view: View
    ) -> Float[Tensor, ""]:
        valid = view.valid(student)
        difference = _attention(student, valid) - _attention(teacher, valid)
        return (difference**2).sum(1).mean()


def _attention(features: Tensor, valid: Tensor) -> Tensor:
    """Attention maps [N, h·w] of length one; a map without activations stays zero."""
    energy = (full(features) ** 2).mean(1, keepdim=True) * valid
    energy = energy.flatten(1)
    return energy / energy.norm(dim=1, keepdim=True).clamp(min=1e-12)
