"""Are two result files of the same images different? A paired test over samples.

Both are judged on the same draws of the samples, so what makes a draw hard is hard for both and
leaves the difference. The p-value is a permutation's: if the two were alike, exchanging them within
a sample would change nothing (Good, Permutation Tests, 2000).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkd.evaluation.bootstrap import (
    draw_weights,
    drawn_precisions,
    groups_of,
    groups_with_class,
    interval,
    mean_precisions,
    over_classes,
    unit_of,
)
from detkd.evaluation.case import Case
from detkd.evaluation.coco_map import OVERLAPS
from detkd.evaluation.matching import ClassMatches, match
from detkd.evaluation.ranking import Ranking

MEASURES = ("AP", "AP50")
SLACK = 1e-12  # what rounding may do to two equal differences


def paired_test(
    case: Case, other: Case, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """`case` minus `other`: difference, interval and p-value of AP and AP50, and by class.

    A class counts as changed where its p-value, times the number of classes left to judge (Holm
    1979), is below 1 - level. Both cases are of the same truth.
    """
    return paired_means([case], [other], draws=draws, level=level, seed=seed)


def paired_means(
    ours: Sequence[Case],
    theirs: Sequence[Case],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """As `paired_test`, of the means of two sides: a side is one config trained with some seeds.

    Each draw of the samples is the same for all runs, and so is each exchange: within a sample the
    first run of one side changes places with the first of the other, the second with the second,
    and so on; the runs of the shorter side come again until each was taken equally often. Samples
    are drawn, runs never: interval and p-value are about these trainings on other samples. How
    much further seeds would vary is not in them; the spread of the runs tells that.
    """
    case = ours[0]
    groups = groups_of(case)
    every = int(groups.max(initial=-1)) + 1
    sides = [[match(run, OVERLAPS) for run in side] for side in (ours, theirs)]
    holding = groups_with_class(sides[0][0], groups)
    once = np.ones((1, len(case.images)), dtype=np.int32)
    weights = draw_weights(groups, draws, seed)
    values = [mean_precisions([drawn_precisions(run, once) for run in side]) for side in sides]
    drawn = [mean_precisions([drawn_precisions(run, weights) for run in side]) for side in sides]
    exchanged = _exchanged(sides[0], sides[1], groups, draws, seed)
    said: dict[str, Any] = {
        "level": level,
        "draws": draws,
        "unit": unit_of(case),
        "groups": every,
        "per_class": {name: {} for name in case.names},
    }
    for name in MEASURES:
        a, b = (each[name] for each in values)
        by_class = drawn[0][name] - drawn[1][name]
        whole = over_classes(drawn[0][name]) - over_classes(drawn[1][name])
        chance = exchanged[name]
        said[name] = paired_line(
            over_classes(a)[0],
            over_classes(b)[0],
            interval(whole, level, every),
            over_classes(chance[0]) - over_classes(chance[1]),
        )
        for at, label in enumerate(case.names):
            limits = interval(by_class[:, at], level, holding[at])
            chances = chance[0][:, at] - chance[1][:, at]
            said["per_class"][label][name] = paired_line(a[0, at], b[0, at], limits, chances)
    said["changed"] = _changed({n: row["AP"] for n, row in said["per_class"].items()}, 1 - level)
    return said


def enough_draws(case: Case) -> int:
    """So many that a p-value can stay below 0.05 when it is multiplied by the number of classes."""
    return max(1000, 50 * len(case.categories))


def exchange_weights(groups: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """[draws, images]: 1 where the two change places, the same for all images of a group."""
    every = int(groups.max(initial=-1)) + 1
    return np.random.default_rng(seed).integers(2, size=(draws, every), dtype=np.int32)[:, groups]


def exchanged_precisions(
    ours: Sequence[ClassMatches], theirs: Sequence[ClassMatches], swapped: np.ndarray
) -> dict[str, np.ndarray]:
    """AP and AP50 [draws, classes] of our results with theirs wherever `swapped` says so."""
    weights = np.concatenate([1 - swapped, swapped], axis=1)
    found = np.full((len(swapped), len(ours), len(OVERLAPS)), np.nan)
    for at, pair in enumerate(zip(ours, theirs, strict=True)):
        if every := int(pair[0].positives.sum()):
            positives = np.full(len(swapped), every)
            found[:, at] = Ranking(pair, 1).average_precision(weights, positives)
    return {"AP": found.mean(axis=2), "AP50": found[:, :, 0]}


def holm(chances: Sequence[float]) -> list[float]:
    """p-values of several tests at once, so that one false find among them is as rare as in one.

    The lowest is multiplied by the number of tests, the next by one less, and so on, and none is
    lower than one before it (Holm, Scandinavian Journal of Statistics 1979).
    """
    adjusted = [0.0] * len(chances)
    highest = 0.0
    for at, which in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        highest = max(highest, min(1.0, chances[which] * (len(chances) - at)))
        adjusted[which] = highest
    return adjusted


def _exchanged(
    ours: Sequence[Sequence[ClassMatches]],
    theirs: Sequence[Sequence[ClassMatches]],
    groups: np.ndarray,
    draws: int,
    seed: int,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    swapped = exchange_weights(groups, draws, seed)
    turns = range(math.lcm(len(ours), len(theirs)))
    pairs = [(ours[at % len(ours)], theirs[at % len(theirs)]) for at in turns]
    one = mean_precisions([exchanged_precisions(*pair, swapped) for pair in pairs])
    two = mean_precisions([exchanged_precisions(*pair, 1 - swapped) for pair in pairs])
    return {name: (one[name], two[name]) for name in MEASURES}


def paired_line(
    ours: float, theirs: float, limits: list[float] | None, chances: np.ndarray
) -> dict[str, Any]:
    """Two values, their difference with its `limits`, and p by the differences of exchanges."""
    if np.isnan(ours):
        return dict.fromkeys(("value", "other", "difference", "interval", "p"))
    difference = float(ours - theirs)
    as_far = np.abs(chances) >= abs(difference) - SLACK
    return {
        "value": float(ours),
        "other": float(theirs),
        "difference": difference,
        "interval": limits,
        "p": float((1 + as_far.sum()) / (1 + len(chances))),
    }


def _changed(rows: dict[str, dict[str, Any]], alpha: float) -> list[str]:
    """The classes that changed, by Holm's procedure; each row gets its adjusted p-value."""
    known = [row for row in rows.values() if row["p"] is not None]
    for row, p in zip(known, holm([row["p"] for row in known]), strict=True):
        row["p_adjusted"] = p
    return [name for name, row in rows.items() if row.get("p_adjusted", 1.0) < alpha]
