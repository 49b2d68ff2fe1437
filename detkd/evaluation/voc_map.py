"""PASCAL VOC's average precision at overlap 0.5, with 11 points and with all points.

A detection belongs to the truth that it overlaps most; if another detection with a higher score
took that truth, it is a false one. Truths marked `difficult` neither help nor hurt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from detkd.evaluation.results import Result

OVERLAP = 0.5


def voc_map(truth: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """Mean over the classes that have a truth; None where no class has one."""
    per_class = {}
    for category in truth["categories"]:
        key = category["id"]
        points = _curve(
            [box for box in truth["annotations"] if box["category_id"] == key],
            [result for result in results if result["category_id"] == key],
        )
        if points is not None:
            per_class[category["name"]] = (eleven_points(*points), all_points(*points))
    if not per_class:
        return {"ap50_11point": None, "ap50_allpoint": None}
    eleven, every = np.mean(list(per_class.values()), axis=0).tolist()
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


def _curve(
    truths: list[dict[str, Any]], results: list[Result]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Recall and precision after each detection, by falling score; None without a truth."""
    of_image = defaultdict(list)
    for box in truths:
        of_image[box["image_id"]].append(box)
    positives = sum(not _difficult(box) for box in truths)
    if not positives:
        return None
    taken: set[tuple[Any, int]] = set()
    hits: list[bool] = []
    for result in sorted(results, key=lambda result: -result["score"]):
        boxes = of_image[result["image_id"]]
        overlaps = [overlap(result["bbox"], box["bbox"]) for box in boxes]
        best = int(np.argmax(overlaps)) if overlaps else -1
        if best < 0 or overlaps[best] < OVERLAP:
            hits.append(False)
        elif not _difficult(boxes[best]):
            place = (result["image_id"], best)
            hits.append(place not in taken)
            taken.add(place)
    true = np.cumsum(hits, dtype=float)
    return true / positives, true / np.arange(1, len(hits) + 1)


def _difficult(box: dict[str, Any]) -> bool:
    return bool(box.get("attributes", {}).get("difficult") or box.get("iscrowd"))


def overlap(a: Sequence[float], b: Sequence[float]) -> float:
    width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / (a[2] * a[3] + b[2] * b[3] - width * height)
