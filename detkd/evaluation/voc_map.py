"""PASCAL VOC's average precision at overlap 0.5, with 11 points and with all points.

A detection belongs to the truth that it overlaps most; if another detection with a higher score
took that truth, it is a false one. Truths marked `difficult` neither help nor hurt. Equal scores
stand in the order of images, as in COCO's numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from detkd.evaluation.case import Case, build_case
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
    positives = int((~truths.difficult[of_class]).sum())
    if not positives:
        return None
    chosen = np.flatnonzero(found.category == category)
    chosen = chosen[np.lexsort((found.image[chosen], -found.score[chosen]))]
    boxes_of: dict[int, list[tuple[int, list[float]]]] = {}
    for at, image, box in zip(
        of_class.tolist(),
        truths.image[of_class].tolist(),
        truths.box[of_class].tolist(),
        strict=True,
    ):
        boxes_of.setdefault(image, []).append((at, box))
    taken: set[int] = set()
    hits: list[bool] = []
    for image, box in zip(found.image[chosen].tolist(), found.box[chosen].tolist(), strict=True):
        best, most = -1, 0.0
        for at, there in boxes_of.get(image, ()):
            if (value := overlap(box, there)) > most:
                best, most = at, value
        if most < OVERLAP:
            hits.append(False)
        elif not truths.difficult[best]:
            hits.append(best not in taken)
            taken.add(best)
    true = np.cumsum(hits, dtype=float)
    return true / positives, true / np.arange(1, len(hits) + 1)


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Intersection over union of two boxes [x, y, width, height]."""
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)
