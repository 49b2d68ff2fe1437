"""What a lab decides on: how many objects of each class, and how far off that is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from detkd.evaluation.results import Result


def count_errors(
    truth: dict[str, Any], results: Sequence[Result], *, threshold: float = 0.5
) -> dict[str, Any]:
    """Objects counted against objects annotated, with detections from score `threshold` on.

    Per class: totals, bias (counted minus annotated, per image) and mean absolute error per
    image.
    """
    images = [image["id"] for image in truth["images"]]
    annotated = Counter(
        (box["image_id"], box["category_id"])
        for box in truth["annotations"]
        if not box.get("iscrowd")
    )
    counted = Counter(
        (result["image_id"], result["category_id"])
        for result in results
        if result["score"] >= threshold
    )
    per_class = {}
    for category in truth["categories"]:
        pairs = [
            (counted[image, category["id"]], annotated[image, category["id"]]) for image in images
        ]
        off = [found - true for found, true in pairs]
        per_class[category["name"]] = {
            "annotated": sum(true for _, true in pairs),
            "counted": sum(found for found, _ in pairs),
            "bias": sum(off) / len(images) if images else None,
            "mean_absolute_error": sum(map(abs, off)) / len(images) if images else None,
        }
    return {"threshold": threshold, "per_class": per_class}
