"""Ground truth and results, checked before they are judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkd.coco_json import require_lists
from detkd.errors import DataError

Result = dict[str, Any]


RELIED_ON = {
    "images": ("id",),
    "annotations": ("image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def check_truth(truth: Any, path: str | Path) -> dict[str, Any]:
    """Ground truth fit for judging; annotations get new ids, since pycocotools reads 0 as 'none'.

    Raises:
        DataError: not a COCO detection file, or an entry that cannot be judged.
    """
    truth = require_lists(truth, path, RELIED_ON, "name a COCO ground truth")
    images = {image["id"] for image in truth["images"]}
    annotations = []
    for at, box in enumerate(truth["annotations"]):
        _check_box(box["bbox"], f"{path}: annotations[{at}]")
        if box["image_id"] not in images:
            raise DataError(
                f"{path}: annotations[{at}] is of image {box['image_id']}, which is not listed."
            )
        area = box.get("area", box["bbox"][2] * box["bbox"][3])
        crowd = int(box.get("iscrowd", 0))
        annotations.append({**box, "id": at + 1, "area": area, "iscrowd": crowd})
    return {**truth, "annotations": annotations}


def check_results(
    results: Any, truth: dict[str, Any], path: str | Path = "results"
) -> tuple[list[Result], int]:
    """Results that can be judged, and how many of an unknown category were passed over.

    Raises:
        DataError: an entry of an unknown image, without a score, or not finite.
    """
    if not isinstance(results, list):
        raise DataError(f"{path}: is no list of COCO results; name a predictions.json.")
    images = {image["id"] for image in truth["images"]}
    categories = {category["id"] for category in truth["categories"]}
    kept = []
    for at, result in enumerate(results):
        where = f"{path}: entry {at}"
        for key in ("image_id", "category_id", "bbox", "score"):
            if not isinstance(result, dict) or key not in result:
                raise DataError(f"{where} has no '{key}'; write the results anew.")
        if result["image_id"] not in images:
            raise DataError(
                f"{where} is of image {result['image_id']}, which the truth does not list; are "
                "they of the same split?"
            )
        _check_box(result["bbox"], where)
        if not _finite(result["score"]):
            raise DataError(
                f"{where} has the score {result['score']!r}; a finite number is needed."
            )
        if result["category_id"] in categories:
            kept.append(result)
    return kept, len(results) - len(kept)


def _check_box(box: Any, where: str) -> None:
    if not isinstance(box, Sequence) or len(box) != 4 or not all(map(_finite, box)):
        raise DataError(f"{where} has the box {box!r}; four finite numbers are needed.")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
