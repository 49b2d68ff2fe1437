"""Everything that is known about a set of results, as one document (metrics.json)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detkd.evaluation.bootstrap import bootstrap_numbers
from detkd.evaluation.case import Case, build_case
from detkd.evaluation.coco_map import Engine, coco_numbers
from detkd.evaluation.confusion import confusion_matrix
from detkd.evaluation.counts import count_errors, usual_thresholds
from detkd.evaluation.curves import best_f1, calibration
from detkd.evaluation.diameters import diameters
from detkd.evaluation.errors import error_kinds
from detkd.evaluation.matching import match
from detkd.evaluation.results import Result
from detkd.evaluation.sizes import size_bins
from detkd.evaluation.voc_map import voc_numbers


def judge(
    truth: dict[str, Any], results: Sequence[Result], *, bootstrap: int = 0
) -> dict[str, Any]:
    """COCO and VOC mAP, per class, counts, and with `bootstrap` > 0 intervals over samples."""
    return judge_case(build_case(truth, results), bootstrap=bootstrap)


def judge_case(
    case: Case,
    *,
    bootstrap: int = 0,
    engine: Engine = "hotcoco",
    thresholds: np.ndarray | None = None,
) -> dict[str, Any]:
    """As `judge`, of a case; `thresholds` [classes] say from which score on a detection counts."""
    return {
        **coco_numbers(case, engine=engine),
        "voc": voc_numbers(case),
        "counts": count_errors(case, thresholds),
        "intervals": bootstrap_numbers(case, draws=bootstrap) if bootstrap else {},
    }


def analyse(
    case: Case, *, thresholds: np.ndarray | None = None, um_per_px: float | None = None
) -> dict[str, Any]:
    """Why the numbers are what they are: errors, confusion, F1, calibration and sizes.

    Raises:
        DataError: an image with a scale that makes no sense.
    """
    chosen = usual_thresholds(case) if thresholds is None else thresholds
    matches = match(case)
    return {
        "errors": error_kinds(case),
        "confusion": confusion_matrix(case, chosen),
        "f1": best_f1(matches, case.names),
        "calibration": calibration(matches, case.names),
        "sizes": {"bins": size_bins(case), "um": diameters(case, chosen, um_per_px)},
    }
