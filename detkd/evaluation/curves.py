"""Precision, recall and F1 by score, and whether scores are chances of being right.

All at overlap 0.5 and by COCO's matching; detections on crowds are passed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkd.evaluation.matching import ClassMatches

BINS = 10


@dataclass(frozen=True)
class ScoreCurve:
    """Of one class: what counting from each score on would give, by falling score.

    `counted` is TP + FP, `precision` TP / (TP + FP), `recall` TP / truths, `f1` their harmonic
    mean 2 TP / (TP + FP + truths). One entry for each score that occurs.
    """

    score: np.ndarray
    counted: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    truths: int


def score_curve(matched: ClassMatches) -> ScoreCurve:
    """The curve of one class, from its matches at one overlap."""
    counts = ~matched.ignored[0]
    score, hit = matched.score[counts], matched.hit[0][counts]
    last = np.flatnonzero(np.r_[score[1:] != score[:-1], True][: len(score)])
    true = np.cumsum(hit)[last].astype(float)
    counted = last + 1
    truths = int(matched.positives.sum())
    recall = true / truths if truths else np.full(len(last), np.nan)
    return ScoreCurve(
        score[last], counted, true / counted, recall, 2 * true / (counted + truths), truths
    )


def best_f1(matches: Sequence[ClassMatches], names: Sequence[str]) -> dict[str, Any]:
    """Of each class, its highest F1 with precision, recall and score there; None without truth."""
    said: dict[str, Any] = {}
    for name, matched in zip(names, matches, strict=True):
        curve = score_curve(matched)
        if not curve.truths or not len(curve.score):
            said[name] = None
            continue
        at = int(curve.f1.argmax())
        said[name] = {
            "f1": float(curve.f1[at]),
            "precision": float(curve.precision[at]),
            "recall": float(curve.recall[at]),
            "score": float(curve.score[at]),
        }
    return said


def calibration(matches: Sequence[ClassMatches], names: Sequence[str]) -> dict[str, Any]:
    """Reliability in ten bins of score, and the expected calibration error (Guo et al., ICML 2017).

    ECE = Σ_b n_b/n |hits_b − score_b|  over bins b of width 0.1, hits_b the share of detections
    that are right, score_b their mean score; the greatest of the gaps is `mce`. Scores beyond 0
    to 1 count in the outer bins.
    """
    pairs = [
        (each.score[~each.ignored[0]], each.hit[0][~each.ignored[0]].astype(float))
        for each in matches
    ]
    score = np.concatenate([scores for scores, _ in pairs]) if pairs else np.empty(0)
    hit = np.concatenate([hits for _, hits in pairs]) if pairs else np.empty(0)
    bins = _bins(score, hit)
    gaps = [abs(row["right"] - row["score"]) for row in bins if row["detections"]]
    return {
        "ece": _error(bins),
        "mce": max(gaps, default=None),
        "detections": len(score),
        "bins": bins,
        "per_class": {name: _error(_bins(*pair)) for name, pair in zip(names, pairs, strict=True)},
    }


def _bins(score: np.ndarray, hit: np.ndarray) -> list[dict[str, Any]]:
    place = np.clip((score * BINS).astype(np.int64), 0, BINS - 1)
    number = np.bincount(place, minlength=BINS)
    scores = np.bincount(place, score, minlength=BINS)
    hits = np.bincount(place, hit, minlength=BINS)
    return [
        {
            "from": at / BINS,
            "to": (at + 1) / BINS,
            "detections": int(n),
            "score": float(scores[at] / n) if n else None,
            "right": float(hits[at] / n) if n else None,
        }
        for at, n in enumerate(number)
    ]


def _error(bins: Sequence[dict[str, Any]]) -> float | None:
    known = [row for row in bins if row["detections"]]
    every = sum(row["detections"] for row in known)
    if not every:
        return None
    return sum(row["detections"] / every * abs(row["right"] - row["score"]) for row in known)
