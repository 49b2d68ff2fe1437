"""Average precision if each image were there so many times: exact, and for many draws at once.

Of a data set in which image i is there w_i times, copies side by side, pycocotools would rank the
same detections, each w_i times. Only the places of hits matter to its precision at 101 recalls,
so for each draw the ranking is two cumulative sums:  precision after hit j = TP_j / (N_j + ε) with
TP_j = Σ_{hits h ≤ j} w_h,  N_j = Σ_{detections d ≤ j} w_d.  Copies of one detection need no places
of their own: precision rises along copies of a hit and falls along copies of a miss, so the best
precision from a recall on is never inside them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from detkd.evaluation.coco_map import RECALLS
from detkd.evaluation.matching import ClassMatches

BATCH = 64  # draws at once: their weights fit the processor's cache


class Ranking:
    """The detections of one class by falling score, ready to be counted under any weights.

    `unit` [D] says whose weight a detection carries: its image, or with several sources (one
    beside the other), the image of a source. `copies` is the highest weight there will be: where
    one image has several detections of equal score, pycocotools ranks its copies one after the
    other, so these detections get a place for each copy.
    """

    def __init__(self, sources: Sequence[ClassMatches], copies: int) -> None:
        images = len(sources[0].positives)
        image = np.concatenate([source.image for source in sources])
        score = np.concatenate([source.score for source in sources])
        unit = np.concatenate([source.image + at * images for at, source in enumerate(sources)])
        order = np.lexsort((image, -score))
        place, self.copy = _with_copies(unit[order], score[order], copies)
        self.unit = unit[order][place]
        self.hit = np.concatenate([source.hit for source in sources], axis=1)[:, order][:, place]
        ignored = np.concatenate([source.ignored for source in sources], axis=1)
        self.ignored = ignored[:, order][:, place]

    def average_precision(self, weights: np.ndarray, positives: np.ndarray) -> np.ndarray:
        """[draws, overlaps] for weights [draws, units]; NaN where a draw has no truth.

        `positives` [draws] is how many truths of this class are to be found in each draw.
        """
        return np.concatenate(
            [
                self._batch(weights[at : at + BATCH], positives[at : at + BATCH])
                for at in range(0, len(weights), BATCH)
            ]
        )

    def _batch(self, weights: np.ndarray, positives: np.ndarray) -> np.ndarray:
        weight = np.take(weights, self.unit, axis=1)
        several = self.copy >= 0
        if several.any():
            weight[:, several] = weight[:, several] > self.copy[several]
        needed = _needed(positives)
        plain = not self.ignored.any()
        counted = np.cumsum(weight, axis=1) if plain else None
        found = np.empty((len(weights), len(self.hit)))
        for level, (hit, ignored) in enumerate(zip(self.hit, self.ignored, strict=True)):
            at = np.flatnonzero(hit)
            here = np.cumsum(weight * ~ignored, axis=1) if counted is None else counted
            found[:, level] = _mean_precision(np.cumsum(weight[:, at], axis=1), here[:, at], needed)
        found[positives == 0] = np.nan
        return found


def _with_copies(unit: np.ndarray, score: np.ndarray, copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Places to rank and, for each, the number of its copy; -1 where one place holds all copies."""
    every = len(unit)
    starts = np.flatnonzero(np.r_[True, (unit[1:] != unit[:-1]) | (score[1:] != score[:-1])])
    starts = starts[:every]
    lengths = np.diff(np.r_[starts, every])
    if (lengths < 2).all():
        return np.arange(every), np.full(every, -1)
    places, numbers = [], []
    for start, length in zip(starts.tolist(), lengths.tolist(), strict=True):
        for copy in [-1] if length == 1 else range(copies):
            places.append(np.arange(start, start + length))
            numbers.append(np.full(length, copy))
    return np.concatenate(places), np.concatenate(numbers)


def _needed(positives: np.ndarray) -> np.ndarray:
    """[draws, recalls]: the least k with k / positives >= recall, in floats as pycocotools has."""
    of = np.maximum(positives, 1)[:, None].astype(float)
    k = np.ceil(RECALLS * of)
    k -= (k - 1) / of >= RECALLS
    k += k / of < RECALLS
    return np.maximum(k, 0).astype(np.int64)


def _mean_precision(true: np.ndarray, counted: np.ndarray, needed: np.ndarray) -> np.ndarray:
    """Mean over the recalls of the best precision from there on; 0 for a recall not reached."""
    draws, hits = true.shape
    if not hits:
        return np.zeros(draws)
    precision = true / (counted + np.spacing(1))
    best = np.zeros((draws, hits + 1))
    best[:, :hits] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    # One search for all draws: each draw's numbers lie above those of the draw before it.
    step = int(max(true[:, -1].max(), needed.max())) + 1
    above = step * np.arange(draws)[:, None]
    at = np.searchsorted((true + above).ravel(), (needed + above).ravel()).reshape(draws, -1)
    at -= hits * np.arange(draws)[:, None]
    return np.take_along_axis(best, at, axis=1).mean(axis=1)
