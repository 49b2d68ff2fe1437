"""The one reduction: mean over channels, over the cells that count, and over images.

So a weight means the same at any batch, image size and width. Losses are computed in float32 (in
float64 if that is what comes in), whatever the precision of the networks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 if it is that."""
    return x if x.dtype == torch.float64 else x.float()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of `values` [N, C, h, w] over channels and, in each image, over the cells of `mask`.

    `mask` [N, 1, h, w] is bool, or a weight of each cell that is not negative. Images without a
    cell are left out of the mean over images; if none has one, the result is 0, with zero
    gradients.
    """
    weights = mask.to(values.dtype)
    totals = weights.flatten(1).sum(1)  # [N]
    sums = (values.mean(1, keepdim=True) * weights).flatten(1).sum(1)  # [N]
    means = sums / totals.clamp(min=1e-12)
    return means.sum() / (totals > 0).sum().clamp(min=1)


def mean_over(rows: Tensor, mask: Tensor) -> Tensor:
    """Mean of `rows` [R] over those in `mask` [R]; 0, with zero gradients, where there are none."""
    return (rows * mask).sum() / mask.sum().clamp(min=1e-12)
