"""What the exported model is worth where it is used: at its thresholds, class by class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detkd.evaluation.case import Case
from detkd.evaluation.coco_map import coco_numbers
from detkd.evaluation.counts import count_errors
from detkd.evaluation.curves import ScoreCurve, score_curve
from detkd.evaluation.matching import match


def figures(
    case: Case, intervals: Mapping[str, Any], thresholds: Mapping[str, float]
) -> dict[str, Any]:
    """Per class AP with its interval, precision and recall, and counts with their errors.

    `intervals` are those of `bootstrap_numbers`; `thresholds` say of each class from which score
    on a detection counts, for all but AP. Precision and recall are at overlap 0.5, and None where
    there is nothing to measure.
    """
    chosen = np.array([thresholds[name] for name in case.names])
    counts = count_errors(case, chosen)
    found = coco_numbers(case)["per_class"]
    per_class = {
        name: {
            "AP": found[name]["AP"],
            "interval": intervals["per_class"][name]["AP"],
            **_counting(score_curve(matched), thresholds[name]),
            "annotated": counts["per_class"][name]["annotated"],
            "counted": counts["per_class"][name]["counted"],
        }
        for name, matched in zip(case.names, match(case), strict=True)
    }
    return {"per_class": per_class, "counts": counts["all"]}


def _counting(curve: ScoreCurve, threshold: float) -> dict[str, float | None]:
    """Precision and recall of what scores the threshold or more."""
    kept = int((curve.score >= threshold).sum())  # scores fall
    if kept:
        precision, recall = float(curve.precision[kept - 1]), float(curve.recall[kept - 1])
        return {"precision": precision, "recall": recall if curve.truths else None}
    return {"precision": None, "recall": 0.0 if curve.truths else None}
