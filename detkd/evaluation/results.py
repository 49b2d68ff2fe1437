"""Ground truth and results, checked before they are judged."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence
from numbers import Real
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
# Control characters, which a terminal would obey, and halves of surrogate pairs.
UNSHOWABLE = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
NEEDED = ("image_id", "category_id", "bbox", "score")


def check_truth(truth: Any, path: str | Path) -> dict[str, Any]:
    """Ground truth fit for judging; annotations get new ids, since pycocotools reads 0 as 'none'.

    Raises:
        DataError: not a COCO detection file, or an entry that cannot be judged.
    """
    truth = require_lists(truth, path, RELIED_ON, "name a COCO ground truth")
    images = _own_ids(truth, "images", path)
    categories = _own_ids(truth, "categories", path)
    _check_names(truth["categories"], path)
    annotations = []
    for at, box in enumerate(truth["annotations"]):
        where = f"{path}: annotations[{at}]"
        _check_box(box["bbox"], where)
        for key, listed, what in (
            ("image_id", images, "image"),
            ("category_id", categories, "category"),
        ):
            if not _among(box[key], listed):
                raise DataError(f"{where} is of {what} {box[key]!r}, which is not listed.")
        area = box.get("area", box["bbox"][2] * box["bbox"][3])
        if not _finite(area) or area < 0:
            raise DataError(f"{where} has the area {area!r}; a number from 0 on is needed.")
        crowd = box.get("iscrowd", 0)
        if crowd not in (0, 1):
            raise DataError(f"{where} has iscrowd {crowd!r}; it is 0 or 1.")
        annotations.append({**box, "id": at + 1, "area": area, "iscrowd": int(crowd)})
    return {**truth, "annotations": annotations}


def find_fault(results: Any, images: set[Any], path: str | Path) -> None:
    """Look at each entry for itself.

    Raises:
        DataError: the first entry that cannot be judged.
    """
    if not isinstance(results, list):
        raise DataError(f"{path}: is no list of COCO results; name a predictions.json.")
    for at, result in enumerate(results):
        where = f"{path}: entry {at}"
        for key in NEEDED:
            if not isinstance(result, dict) or key not in result:
                raise DataError(f"{where} has no '{key}'; write the results anew.")
        if not _among(result["image_id"], images):
            raise DataError(
                f"{where} is of image {result['image_id']!r}, which the truth does not list; are "
                "they of the same split?"
            )
        if not isinstance(result["category_id"], Hashable):
            raise DataError(f"{where} has the category {result['category_id']!r}; an id is needed.")
        _check_box(result["bbox"], where)
        if not _finite(result["score"]):
            raise DataError(
                f"{where} has the score {result['score']!r}; a finite number is needed."
            )


def _own_ids(truth: dict[str, Any], section: str, path: str | Path) -> set[Any]:
    """The ids of images or categories, each a number or a text and of one entry alone."""
    first: dict[Any, int] = {}
    for at, entry in enumerate(truth[section]):
        key, where = entry["id"], f"{path}: {section}[{at}]"
        if not isinstance(key, int | str):
            raise DataError(f"{where} has the id {key!r}; a whole number or a text is needed.")
        if key in first:
            raise DataError(
                f"{where} has the id {key!r} of {section}[{first[key]}]; give each its own, or "
                "mend the file with 'detkd convert'."
            )
        first[key] = at
    return set(first)


def _check_names(categories: list[dict[str, Any]], path: str | Path) -> None:
    first: dict[str, int] = {}
    for at, name in enumerate(category["name"] for category in categories):
        where = f"{path}: categories[{at}]"
        if not isinstance(name, str):
            raise DataError(f"{where} has the name {name!r}; a text is needed.")
        if UNSHOWABLE.search(name):
            raise DataError(
                f"{where} has the name {name!r}, with letters that cannot be shown; mend the file "
                "with 'detkd convert'."
            )
        if name in first:
            raise DataError(
                f"{where} has the name '{name}' of categories[{first[name]}]; mend the file with "
                "'detkd convert'."
            )
        first[name] = at


def _among(key: Any, known: set[Any]) -> bool:
    return isinstance(key, Hashable) and key in known


def _check_box(box: Any, where: str) -> None:
    if (
        isinstance(box, str)
        or not isinstance(box, Sequence)
        or len(box) != 4
        or not all(map(_finite, box))
    ):
        raise DataError(f"{where} has the box {box!r}; four finite numbers are needed.")
    if box[2] < 0 or box[3] < 0:
        raise DataError(
            f"{where} has the box {box!r}; width and height, its last two numbers, must not be "
            "negative."
        )


def _finite(value: Any) -> bool:
    try:
        return isinstance(value, Real) and math.isfinite(value)
    except OverflowError:
        return False
