"""What a lab decides on: how many objects of each class, and how far off that is."""

from __future__ import annotations

from typing import Any

import numpy as np

from detkd.evaluation.case import Case


def count_errors(case: Case, *, threshold: float = 0.5) -> dict[str, Any]:
    """Objects counted against objects annotated, with detections from score `threshold` on.

    Per class: totals, bias (counted minus annotated, per image) and mean absolute error per
    image.
    """
    every = len(case.images)
    per_class = {}
    for at, name in enumerate(case.names):
        here = (case.truths.category == at) & ~case.truths.crowd
        kept = (case.detections.category == at) & (case.detections.score >= threshold)
        annotated = np.bincount(case.truths.image[here], minlength=every)
        counted = np.bincount(case.detections.image[kept], minlength=every)
        off = counted - annotated
        per_class[name] = {
            "annotated": int(annotated.sum()),
            "counted": int(counted.sum()),
            "bias": float(off.mean()) if every else None,
            "mean_absolute_error": float(np.abs(off).mean()) if every else None,
        }
    return {"threshold": threshold, "per_class": per_class}
