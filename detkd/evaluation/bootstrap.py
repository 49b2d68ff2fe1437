"""How sure a mAP is: intervals from drawing the samples anew (Efron and Tibshirani 1993).

Percentiles of the draws alone are too narrow where there are few samples, as a standard deviation
over n instead of n - 1 is; they are taken further out by Hesterberg's rule (The American
Statistician 2015), as a t quantile is further out than a normal one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np

from detkd.evaluation.case import Case, build_case
from detkd.evaluation.coco_map import OVERLAPS
from detkd.evaluation.matching import ClassMatches, match
from detkd.evaluation.ranking import Ranking
from detkd.evaluation.results import Result


def bootstrap_map(
    truth: dict[str, Any],
    results: Sequence[Result],
    *,
    draws: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Any]:
    """Intervals of AP and AP50 over `draws` data sets drawn, with replacement, from this one.

    What is drawn is a sample (`images[].sample`), since images of one sample resemble each
    other; where none is named, an image. Each draw is exact: what pycocotools says of the drawn
    data set, its images in the order of their ids.
    """
    return bootstrap_numbers(build_case(truth, results), draws=draws, level=level, seed=seed)


def bootstrap_numbers(
    case: Case, *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """As `bootstrap_map`, of a case."""
    return bootstrap_means([case], draws=draws, level=level, seed=seed)


def bootstrap_means(
    runs: Sequence[Case], *, draws: int = 1000, level: float = 0.95, seed: int = 0
) -> dict[str, Any]:
    """As `bootstrap_map`, of the mean AP of several runs on the same truth.

    Samples are drawn, the same for all runs; how much further seeds would vary is not in it.
    """
    case = runs[0]
    groups = groups_of(case)
    every = int(groups.max(initial=-1)) + 1
    weights = draw_weights(groups, draws, seed)
    matches = [match(run, OVERLAPS) for run in runs]
    found = mean_precisions([drawn_precisions(run, weights) for run in matches])
    holding = groups_with_class(matches[0], groups)
    return {
        "level": level,
        "draws": draws,
        "unit": unit_of(case),
        "groups": every,
        **{name: interval(over_classes(found[name]), level, every) for name in found},
        "per_class": {
            label: {
                "groups": holding[at],
                **{name: interval(found[name][:, at], level, holding[at]) for name in found},
            }
            for at, label in enumerate(case.names)
        },
    }


def groups_of(case: Case) -> np.ndarray:
    """[images]: the number of each image's group, which is its sample or itself."""
    names = [
        ("image", image["id"]) if image.get("sample") is None else ("sample", str(image["sample"]))
        for image in case.images
    ]
    number = {name: at for at, name in enumerate(dict.fromkeys(names))}
    return np.array([number[name] for name in names], dtype=np.int64)


def groups_with_class(matches: Sequence[ClassMatches], groups: np.ndarray) -> list[int]:
    """Of each class, the number of groups with a truth of it."""
    return [len(np.unique(groups[each.positives > 0])) for each in matches]


def unit_of(case: Case) -> str:
    """What is drawn, in a word."""
    return "sample" if any(image.get("sample") is not None for image in case.images) else "image"


def draw_weights(groups: np.ndarray, draws: int, seed: int) -> np.ndarray:
    """[draws, images]: how often each image is in each drawn data set."""
    every = int(groups.max(initial=-1)) + 1
    random = np.random.default_rng(seed)
    times = np.zeros((draws, every), dtype=np.int32)
    for row in times if every else ():
        row += np.bincount(random.integers(every, size=every), minlength=every).astype(np.int32)
    return times[:, groups]


def drawn_precisions(matches: Sequence[ClassMatches], weights: np.ndarray) -> dict[str, np.ndarray]:
    """AP and AP50 [draws, classes] of the drawn data sets; NaN where a draw lacks the class.

    `matches` are at COCO's ten overlaps.
    """
    copies = int(weights.max(initial=1))
    found = np.full((len(weights), len(matches), len(OVERLAPS)), np.nan)
    for at, matched in enumerate(matches):
        if matched.positives.any():
            positives = weights @ matched.positives
            found[:, at] = Ranking([matched], copies).average_precision(weights, positives)
    return {"AP": found.mean(axis=2), "AP50": found[:, :, 0]}


def mean_precisions(runs: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The mean over runs of what `drawn_precisions` says of each."""
    return {name: np.mean([run[name] for run in runs], axis=0) for name in runs[0]}


def over_classes(values: np.ndarray) -> np.ndarray:
    """Mean over the classes that a draw holds; NaN where it holds none."""
    known = ~np.isnan(values)
    total = np.where(known, values, 0).sum(axis=1)
    return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def interval(values: np.ndarray, level: float, groups: int) -> list[float] | None:
    """The expanded percentile interval of draws of so many groups; None of fewer than two.

    Percentiles q and 1 - q with  q = Φ(−√(n/(n−1)) t),  t the quantile (1 + level)/2 of Student's
    distribution with n - 1 degrees of freedom, n the number of groups.
    """
    known = values[~np.isnan(values)]
    if not known.size or groups < 2:
        return None
    far = math.sqrt(groups / (groups - 1)) * _student((1 + level) / 2, groups - 1)
    outside = 100 * NormalDist().cdf(-far)
    return [float(value) for value in np.percentile(known, [outside, 100 - outside])]


def _student(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * freedom**4)
    )
