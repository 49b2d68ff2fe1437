"""How sure a score is, and whether two runs differ: samples drawn anew, as for a detector's mAP.

The scores of a drawn data set follow from three numbers of each class: how many images of it there
are, how many were called so, and how many were called so rightly. A class that a draw happens to
lack is left out of that draw's means, as the detectors' AP has it: counted as an F1 of 0 where it
was called, it would draw the interval below the score.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkd.evaluation.bootstrap import draw_weights, interval
from detkd.evaluation.paired import exchange_weights, paired_line

INTERVALS_OF = ("top1", "balanced_accuracy", "macro_f1")
DRAWS = 1000
LEVEL = 0.95
SEED = 0


def bootstrap_scores(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Intervals over `draws` data sets drawn, with replacement, from this one.

    What is drawn is a group (sample), since images of one resemble each other; an image without
    one is a group of its own. A score of fewer than two groups has no interval (None).
    """
    return bootstrap_means([probabilities], labels, groups, draws=draws)


def bootstrap_means(
    runs: Sequence[np.ndarray],
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """As `bootstrap_scores`, of the mean score of several runs on the same images."""
    group = _numbered(groups)
    weights = draw_weights(group, draws, SEED)
    drawn = _mean([drawn_scores(Said(run, labels), weights) for run in runs])
    every = len(np.unique(group))
    limits = {name: interval(drawn[name], LEVEL, every) for name in INTERVALS_OF}
    return {**_drawing(group, draws), **limits}


def compare_paired(
    ours: np.ndarray,
    theirs: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """Probabilities `ours` [N, K] against `theirs` of the same images; see `compare_means`.

    Where each image is its own sample, there is the exact test of McNemar, too, on the images that
    one alone has right; images of one sample are not independent of each other, as it wants them.
    """
    told = compare_means([ours], [theirs], labels, groups, draws=draws)
    right = [each.argmax(1) == labels for each in (ours, theirs)]
    alone = [int((right[at] & ~right[1 - at]).sum()) for at in (0, 1)]
    p = mcnemar(*alone) if told["unit"] == "image" else None
    return {**told, "right_alone": {"ours": alone[0], "theirs": alone[1], "mcnemar_p": p}}


def compare_means(
    ours: Sequence[np.ndarray],
    theirs: Sequence[np.ndarray],
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    draws: int = DRAWS,
) -> dict[str, Any]:
    """The mean of some runs minus that of others, as `detkd.evaluation.paired` has it of detectors.

    For each score: `value`, `other`, `difference`, its `interval` over samples drawn anew (the same
    ones for both; None of fewer than two), and `p`, the share of random exchanges of the two within
    samples that make a difference at least as large, (1 + hits)/(1 + draws).
    """
    group = _numbered(groups)
    sides = [[Said(run, labels) for run in side] for side in (ours, theirs)]
    once = np.ones((1, len(labels)), dtype=np.int32)
    weights, swapped = draw_weights(group, draws, SEED), exchange_weights(group, draws, SEED)
    value, other = (_mean([drawn_scores(run, once) for run in side]) for side in sides)
    drawn = [_mean([drawn_scores(run, weights) for run in side]) for side in sides]
    turns = range(math.lcm(len(ours), len(theirs)))
    pairs = [(sides[0][at % len(ours)], sides[1][at % len(theirs)]) for at in turns]
    chance = [
        _mean([exchanged_scores(*pair, each) for pair in pairs]) for each in (swapped, 1 - swapped)
    ]
    every = len(np.unique(group))
    return {
        **_drawing(group, draws),
        **{
            name: paired_line(
                value[name][0],
                other[name][0],
                interval(drawn[0][name] - drawn[1][name], LEVEL, every),
                chance[0][name] - chance[1][name],
            )
            for name in INTERVALS_OF
        },
    }


class Said:
    """What was said of images with labels [N], as ones and zeros [N, K]."""

    def __init__(self, probabilities: np.ndarray, labels: np.ndarray) -> None:
        ones = np.eye(probabilities.shape[1], dtype=np.float32)
        self.truths, self.called = ones[labels], ones[probabilities.argmax(1)]
        self.hits = self.truths * self.called
        self.absent = self.truths.sum(0) == 0  # classes [K] of which there is no image at all


def drawn_scores(said: Said, weights: np.ndarray) -> dict[str, np.ndarray]:
    """The scores [draws] of data sets that hold each image as often as `weights` [draws, N] say."""
    times = weights.astype(np.float32)
    return _scores(times @ said.truths, times @ said.called, times @ said.hits, said.absent)


def exchanged_scores(ours: Said, theirs: Said, swapped: np.ndarray) -> dict[str, np.ndarray]:
    """The scores [draws] of ours, with theirs wherever `swapped` [draws, N] is 1."""
    swaps = swapped.astype(np.float32)
    truths = np.repeat(ours.truths.sum(0, keepdims=True), len(swaps), axis=0)
    called, hits = (
        one.sum(0) + swaps @ (other - one)
        for one, other in ((ours.called, theirs.called), (ours.hits, theirs.hits))
    )
    return _scores(truths, called, hits, ours.absent)


def _scores(
    truths: np.ndarray, called: np.ndarray, hits: np.ndarray, absent: np.ndarray
) -> dict[str, np.ndarray]:
    """The scores of data sets by their images of each class [draws, K]; see `class_scores`."""
    truths, called, hits = (each.astype(np.float64) for each in (truths, called, hits))
    there = truths > 0
    counted = there | (absent & (called > 0))
    recall = hits / np.maximum(truths, 1)
    f1 = 2 * hits / np.maximum(truths + called, 1)
    return {
        "top1": hits.sum(1) / truths.sum(1),
        "balanced_accuracy": recall.sum(1) / there.sum(1),
        "macro_f1": (f1 * counted).sum(1) / counted.sum(1),
    }


def _numbered(groups: Sequence[str]) -> np.ndarray:
    number = {name: at for at, name in enumerate(dict.fromkeys(groups))}
    return np.array([number[name] for name in groups], dtype=np.int64)


def _drawing(group: np.ndarray, draws: int) -> dict[str, Any]:
    every = len(np.unique(group))
    unit = "image" if every == len(group) else "sample"
    return {"level": LEVEL, "draws": draws, "unit": unit, "groups": every}


def _mean(runs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.mean([run[name] for run in runs], axis=0) for name in INTERVALS_OF}


def mcnemar(only_ours: int, only_theirs: int) -> float:
    """p of the exact two-sided test that both are right equally often (McNemar, 1947).

    Of the n images that one alone has right, each is a fair coin: p = min(1, 2 P(X ≤ fewer)) with X
    binomial (n, 1/2).
    """
    n, fewer = only_ours + only_theirs, min(only_ours, only_theirs)
    if not n:
        return 1.0
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
