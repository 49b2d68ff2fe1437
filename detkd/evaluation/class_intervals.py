"""How sure a score is, and whether two runs differ: samples drawn anew."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkd.evaluation.classes import class_scores

INTERVALS_OF = ("top1", "balanced_accuracy", "macro_f1")


def _members(groups: Sequence[str]) -> list[np.ndarray]:
    of_group = defaultdict(list)
    for at, group in enumerate(groups):
        of_group[group].append(at)
    return [np.array(members) for members in of_group.values()]


def _drawn(members: Sequence[np.ndarray], random: np.random.Generator) -> np.ndarray:
    """The images of as many groups as there are, drawn with replacement."""
    return np.concatenate([members[at] for at in random.integers(len(members), size=len(members))])


def bootstrap_scores(
    probabilities: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Percentile intervals over `draws` data sets drawn, with replacement, from this one.

    What is drawn is a group (sample), since images of one resemble each other; an image without
    one is a group of its own.
    """
    members = _members(groups)
    random = np.random.default_rng(seed)
    values: dict[str, list[float]] = {name: [] for name in INTERVALS_OF}
    for _ in range(draws):
        drawn = np.concatenate(
            [members[at] for at in random.integers(len(members), size=len(members))]
        )
        scores = class_scores(probabilities[drawn], labels[drawn])
        for name in INTERVALS_OF:
            value = scores[name]
            assert value is not None
            values[name].append(value)
    tails = [50 * (1 - level), 100 - 50 * (1 - level)]
    return {
        "level": level,
        "draws": draws,
        "groups": len(members),
        **{name: [float(v) for v in np.percentile(found, tails)] for name, found in values.items()},
    }


def compare_paired(
    first: np.ndarray,
    second: np.ndarray,
    labels: np.ndarray,
    groups: Sequence[str],
    *,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Whether probabilities `second` [N, K] are better than `first` on the same images.

    For each score the difference, its 95 % interval over samples drawn anew (the same ones for
    both), and p: twice the smaller share of draws on either side of no difference. Besides, the
    exact test of McNemar on the images that one of them alone has right.
    """
    members = _members(groups)
    random = np.random.default_rng(seed)
    gaps: dict[str, list[float]] = {name: [] for name in INTERVALS_OF}
    for _ in range(draws):
        drawn = np.concatenate(
            [members[at] for at in random.integers(len(members), size=len(members))]
        )
        one, other = (class_scores(each[drawn], labels[drawn]) for each in (first, second))
        for name in INTERVALS_OF:
            gaps[name].append(float(other[name] or 0.0) - float(one[name] or 0.0))
    whole = [class_scores(each, labels) for each in (first, second)]
    found: dict[str, Any] = {}
    for name, values in gaps.items():
        array = np.array(values)
        sides = min(float((array <= 0).mean()), float((array >= 0).mean()))
        found[name] = {
            "difference": float(whole[1][name] or 0.0) - float(whole[0][name] or 0.0),
            "interval": [float(v) for v in np.percentile(array, [2.5, 97.5])],
            "p": min(1.0, 2 * sides),
        }
    right = [each.argmax(1) == labels for each in (first, second)]
    only = [int((right[at] & ~right[1 - at]).sum()) for at in (0, 1)]
    return {
        **found,
        "mcnemar": {"only_first": only[0], "only_second": only[1], "p": mcnemar(*only)},
    }


def mcnemar(only_first: int, only_second: int) -> float:
    """p of the exact two-sided test that both are right equally often (McNemar, 1947).

    Of the n images that one alone has right, each is a fair coin: p = min(1, 2 P(X ≤ fewer)) with X
    binomial (n, 1/2).
    """
    n, fewer = only_first + only_second, min(only_first, only_second)
    if not n:
        return 1.0
    return min(1.0, 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n)
