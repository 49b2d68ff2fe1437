"""NST: neuron selectivity transfer (Huang and Wang, 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class NeuronSelectivity(nn.Module):
    """Match the distribution of the channels' activation patterns, not channel by channel.

    Each channel of an image is one sample, its map scaled to length one; the squared maximum mean
    discrepancy of the two sets of samples under the kernel k(x, y) = ⟨x, y⟩², mean over images:

        L = mean_ii' k(t_i, t_i') + mean_jj' k(s_j, s_j') − 2 mean_ij k(s_j, t_i)

    Never negative; zero when the two sets are equal, in any order. Widths may differ, padding is
    left out, and the memory is that of Gram matrices, not of all pairs of maps. The published
    weight is 50 for classifiers.
    """

    needs_equal_width = False
    needs_cells = True
    sums_levels = True

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n d h w"], view: View
    ) -> Float[Tensor, ""]:
        valid = view.valid(student)
        s, t = _patterns(student, valid), _patterns(teacher, valid)
        return _kernel(t, t) + _kernel(s, s) - 2 * _kernel(s, t)


def _patterns(features: Tensor, valid: Tensor) -> Tensor:
    """Each channel's map over the image, of length one [N, C, h·w]; a dead channel stays zero."""
    return F.normalize((full(features) * valid).flatten(2), dim=2, eps=1e-6)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    return torch.bmm(a, b.transpose(1, 2)).square().mean()
