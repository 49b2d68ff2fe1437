"""PASCAL VOC's average precision at overlap 0.5, with 11 points and with all points.

A detection belongs to the truth that it overlaps most; if another detection with a higher score
took that truth, it is a false one. Truths marked `difficult` neither help nor hurt. Equal scores
stand in the order of images, as in COCO's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask

from detkd.evaluation.case import Case, build_case
from detkd.evaluation.matching import pairs_by_image
from detkd.evaluation.results import Result

OVERLAP = 0.5


def voc_map(truth: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Mean over the classes that have a truth; None where no class has one."""
    return voc_numbers(build_case(truth, results))


def voc_numbers(case: Case) -> dict[str, Any]:
    """As `voc_map`, of a case."""
    curves = [_curve(case, at) for at in range(len(case.categories))]
    per_class = [(eleven_points(*curve), all_points(*curve)) for curve in curves if curve]
    if not per_class:
        return {"ap50_11point": None, "ap50_allpoint": None}
    eleven, every = np.mean(per_class, axis=0).tolist()
    return {"ap50_11point": eleven, "ap50_allpoint": every}


def eleven_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Mean over r = 0, 0.1, .. 1 of the best precision at recall r or more (VOC2007)."""
    reached = [precision[recall >= tenth / 10 - 1e-9] for tenth in range(11)]
    return float(np.mean([values.max() if values.size else 0.0 for values in reached]))


def all_points(recall: np.ndarray, precision: np.ndarray) -> float:
    """Area under the precision made monotonous (VOC2010 and later)."""
    recall = np.concatenate(([0.0], recall, [1.0]))
    precision = np.concatenate(([0.0], precision, [0.0]))
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope[1:]))


def _curve(case: Case, category: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Recall and precision after each detection, by falling score; None without a truth."""
    truths, found = case.truths, case.detections
    of_class = np.flatnonzero(truths.category == category)
    of_class = of_class[np.argsort(truths.image[of_class], kind="stable")]
    positives = int((~truths.difficult[of_class]).sum())
    if not positives:
        return None
    chosen = np.flatnonzero(found.category == category)
    chosen = chosen[np.argsort(found.image[chosen], kind="stable")]
    best = np.full(len(chosen), -1)
    for rows, columns in pairs_by_image(found.image[chosen], truths.image[of_class]):
        here = of_class[columns]
        shared = mask.iou(found.box[chosen[rows]], truths.box[here], [0] * len(here))
        best[rows] = np.where(shared.max(axis=1) >= OVERLAP, here[shared.argmax(axis=1)], -1)
    hit, counts = _hits(best[np.argsort(-found.score[chosen], kind="stable")], truths.difficult)
    true = np.cumsum(hit[counts], dtype=float)
    return true / positives, true / np.arange(1, len(true) + 1)


def _hits(best: np.ndarray, difficult: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether each detection is the first on its truth, and whether it counts at all.

    `best` is the truth that each overlaps most, by falling score; -1 for none.
    """
    places = np.flatnonzero(best >= 0)
    _, first = np.unique(best[places], return_index=True)
    hit = np.zeros(len(best), dtype=bool)
    hit[places[first]] = True
    counts = np.ones(len(best), dtype=bool)
    counts[places] = ~difficult[best[places]]
    return hit, counts
