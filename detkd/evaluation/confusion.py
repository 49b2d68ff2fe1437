"""What is taken for what: detections against truths, whatever their classes, with background."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask

from detkd.evaluation.case import Case, by_image

OVERLAP = 0.5
BACKGROUND = "background"


def confusion_matrix(case: Case, thresholds: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """Counts [truth, detection] of detections from their class's threshold on.

    In each image the pair that overlaps most is joined first, down to an overlap of 0.5, each
    detection and truth once; of equal overlaps, a pair of one class, then the higher score.
    A truth without a partner was taken for background (last column), a detection without one
    was made of background (last row). Crowds are no truths here; what lies in a crowd, by half
    of itself, and has no partner is passed over.
    """
    every = len(case.categories)
    counts = np.zeros((every + 1, every + 1), dtype=np.int64)
    truths, found = case.truths, case.detections
    kept = found.score >= np.asarray(thresholds, dtype=float)[found.category]
    found_in, truths_in, crowds_in = (
        by_image(found.image, kept),
        by_image(truths.image, ~truths.crowd),
        by_image(truths.image, truths.crowd),
    )
    nothing = np.empty(0, dtype=np.int64)
    for image in sorted(found_in.keys() | truths_in.keys()):
        here, there = found_in.get(image, nothing), truths_in.get(image, nothing)
        pairs = _pairs(case, here, there)
        for d, t in pairs:
            counts[truths.category[t], found.category[d]] += 1
        alone = np.setdiff1d(here, [d for d, _ in pairs])
        unfound = np.setdiff1d(there, [t for _, t in pairs])
        crowds = crowds_in.get(image, nothing)
        np.add.at(counts, (every, found.category[_outside(case, alone, crowds)]), 1)
        np.add.at(counts, (truths.category[unfound], every), 1)
    return {
        "overlap": OVERLAP,
        "classes": [*case.names, BACKGROUND],
        "rows": "truth",
        "columns": "detection",
        "counts": counts.tolist(),
    }


def _pairs(case: Case, here: np.ndarray, there: np.ndarray) -> list[tuple[int, int]]:
    if not len(here) or not len(there):
        return []
    overlaps = mask.iou(case.detections.box[here], case.truths.box[there], [0] * len(there))
    rows, columns = np.nonzero(overlaps >= OVERLAP)
    other = case.detections.category[here[rows]] != case.truths.category[there[columns]]
    order = np.lexsort((-case.detections.score[here[rows]], other, -overlaps[rows, columns]))
    joined: dict[int, int] = {}
    taken: set[int] = set()
    for d, t in zip(here[rows[order]].tolist(), there[columns[order]].tolist(), strict=True):
        if d not in joined and t not in taken:
            joined[d] = t
            taken.add(t)
    return list(joined.items())


def _outside(case: Case, detections: np.ndarray, crowds: np.ndarray) -> np.ndarray:
    """The detections that lie in no crowd."""
    if not len(detections) or not len(crowds):
        return detections
    boxes = case.detections.box[detections], case.truths.box[crowds]
    return detections[mask.iou(*boxes, [1] * len(crowds)).max(axis=1) < OVERLAP]
