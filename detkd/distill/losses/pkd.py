"""PKD: Pearson correlation distillation (Cao et al., NeurIPS 2022)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class PearsonDistillation(nn.Module):
    """Match the pattern of each channel, whatever its mean and scale.

        L = 1/2 · mean (ŝ − t̂)² = mean over channels of 1 − r_c,   f̂ = (f − μ_c) / σ_c

    where μ_c and σ_c of a channel are taken over all images and cells of the batch, padding left
    out, and r_c is Pearson's correlation. It is computed by the right side, which has the same
    value and gradient as the left and reads the maps a third as often. Between 0 and 2. A channel
    that is constant in either network has no pattern, only noise to be blown up, and is left out
    of the mean.
    """

    needs_equal_width = True
    sums_levels = True

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        cells = view.valid(student) if view.is_padded else None
        s, t = full(student), full(teacher)
        mean_s, mean_t = _mean(s, cells), _mean(t, cells)
        s, t = s - mean_s, t - mean_t
        var_s, var_t, covariance = _mean(s * s, cells), _mean(t * t, cells), _mean(s * t, cells)
        alive = (var_s > _noise(mean_s)) & (var_t > _noise(mean_t))
        if not bool(alive.any()):
            return student.sum() * 0.0
        correlation = covariance[alive] / (var_s[alive] * var_t[alive]).sqrt()
        return 1 - correlation.mean()


DEAD = 1e-10  # variance under which a channel is constant,
ROUNDING = 1e-6  # as it is where it varies by less than this share of its mean


def _noise(mean: Tensor) -> Tensor:
    """The variance that rounding alone may make."""
    return (ROUNDING * mean).square().clamp(min=DEAD)


def _mean(features: Tensor, cells: Tensor | None) -> Tensor:
    """Mean of each channel [1, C, 1, 1] over `cells` [N, 1, h, w], or over all."""
    if cells is None:
        return features.mean((0, 2, 3), keepdim=True)
    return (features * cells).sum((0, 2, 3), keepdim=True) / cells.sum()
