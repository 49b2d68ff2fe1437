"""Anchors that fit the boxes of a data set."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def fit_anchors(
    sizes: np.ndarray, levels: int, ratios: Sequence[float]
) -> tuple[list[list[float]], float]:
    """One anchor side in px for each level, and the mean best overlap of the boxes with them.

    The logarithms of the boxes' sides (square root of the area) are cut into `levels` clusters
    by k-means, started from quantiles, so the same boxes give the same anchors; an anchor of
    ratio r (height over width) has the area of its side squared. Neighbouring levels are kept
    at least a factor 1.3 apart.

    Args:
        sizes: widths and heights in px of the resized image, [N, 2].
        levels: how many levels there are, the finest first.
        ratios: aspect ratios of every level.
    """
    if not len(sizes):
        return [[16.0 * 2**level] for level in range(levels)], 0.0
    sides = np.sort(np.log(np.sqrt(sizes.prod(axis=1))))
    centres = np.quantile(sides, (np.arange(levels) + 0.5) / levels)
    for _ in range(50):
        nearest = np.abs(sides[:, None] - centres).argmin(axis=1)
        moved = np.array(
            [
                sides[nearest == k].mean() if (nearest == k).any() else centres[k]
                for k in range(levels)
            ]
        )
        if np.allclose(moved, centres, atol=1e-6):
            break
        centres = moved
    for level in range(1, levels):
        centres[level] = max(centres[level], centres[level - 1] + np.log(1.3))
    anchors = [[round(float(side), 1)] for side in np.exp(centres)]
    return anchors, best_overlap(sizes, [side for level in anchors for side in level], ratios)


def best_overlap(sizes: np.ndarray, sides: Sequence[float], ratios: Sequence[float]) -> float:
    """Mean over the boxes of the overlap with the anchor, at the same centre, that fits best."""
    widths = np.array([side / np.sqrt(ratio) for side in sides for ratio in ratios])
    heights = np.array([side * np.sqrt(ratio) for side in sides for ratio in ratios])
    inter = np.minimum(sizes[:, :1], widths) * np.minimum(sizes[:, 1:], heights)
    union = sizes.prod(axis=1)[:, None] + widths * heights - inter
    return float((inter / union).max(axis=1).mean())
