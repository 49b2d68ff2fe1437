"""FSP: flow of the solution procedure (Yim et al., CVPR 2017)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class SolutionFlow(nn.Module):
    """Match how one layer's channels go together with the next one's.

    For each two successive features of `at`, the earlier resampled to the later's cells:

        G_ij = 1/cells Σ_cells a_i b_j,   L = mean over images, i, j and pairs of (G_s − G_t)²

    Padding is left out. A student of other widths is adapted first. The paper trains with it
    alone before the task (see the term's schedule). `at` names two features or more,
    from the image on.
    """

    needs_equal_width = True
    joint = True
    at_least = 2
    fine_to_deep = True
    published = None  # it is trained with alone there

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View) -> Tensor:
        distances = [
            _flow(student[at], student[at + 1], view) - _flow(teacher[at], teacher[at + 1], view)
            for at in range(len(student) - 1)
        ]
        return torch.stack([distance.square().mean() for distance in distances]).mean()


def _flow(earlier: Tensor, later: Tensor, view: View) -> Tensor:
    """Flow matrices [N, C, D] of two features of one network."""
    size, later = later.shape[-2:], full(later)
    cells = view.valid(earlier).to(later.dtype)
    # Padding must not flow into the border's cells when the earlier map is resampled.
    counted = F.interpolate(cells, size=size, mode="area").clamp(min=1e-6)
    earlier = F.interpolate(full(earlier) * cells, size=size, mode="area") / counted
    valid = view.valid(later)
    products = torch.bmm((earlier * valid).flatten(2), later.flatten(2).transpose(1, 2))
    return products / valid.flatten(1).sum(1).clamp(min=1)[:, None, None]
