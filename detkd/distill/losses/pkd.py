"""PKD: Pearson correlation distillation (Cao et al., NeurIPS 2022)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class PearsonDistillation(nn.Module):
    """Match the pattern of each channel, whatever its mean and scale.

        L = 1/2 · mean (ŝ − t̂)² ≈ 1 − r,   f̂ = (f − μ_c) / σ_c

    where μ_c and σ_c of a channel are taken over all images and cells of the batch, padding left
    out, and r is Pearson's correlation. Between 0 and 2. A channel that is constant in either
    network has no pattern, only noise to be blown up, and is left out of the mean.
    """

    needs_equal_width = True

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        cells = view.valid(student).flatten()
        rows_s, rows_t = _channels(student)[:, cells], _channels(teacher)[:, cells]
        alive = (rows_s.var(1, correction=0) > DEAD) & (rows_t.var(1, correction=0) > DEAD)
        if not bool(alive.any()):
            return student.sum() * 0.0
        difference = _standardise(rows_s[alive]) - _standardise(rows_t[alive])
        return 0.5 * (difference**2).mean()


DEAD = 1e-10  # variance under which a channel is constant


def _channels(features: Tensor) -> Tensor:
    """[C, N·h·w]"""
    return full(features).transpose(0, 1).flatten(1)


def _standardise(rows: Tensor) -> Tensor:
    centred = rows - rows.mean(1, keepdim=True)
    return centred / rows.var(1, correction=0, keepdim=True).sqrt()
