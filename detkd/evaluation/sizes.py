"""Precision by size, in bins that fit the data: quantiles of the truth, beside COCO's 32 and 96."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from detkd.evaluation.bootstrap import drawn_precisions, over_classes
from detkd.evaluation.case import Case
from detkd.evaluation.coco_map import OVERLAPS
from detkd.evaluation.matching import EVERY_AREA, match

BINS = 4


def size_bins(case: Case, *, bins: int = BINS) -> list[dict[str, Any]]:
    """AP, AP50 and recall of the truths in each of `bins` bins with as many truths.

    Judged as COCO judges small, medium and large: truths of another size, and what was found of
    another size and matches nothing, neither help nor hurt. An area belongs to one bin, from its
    lower edge on; edges are said as the side of a square, in px.
    """
    areas = case.truths.area[~case.truths.crowd]
    if not len(areas):
        return []
    inner = np.unique(np.quantile(areas, np.arange(1, bins) / bins))
    inner = inner[(inner > areas.min()) & (inner <= areas.max())]
    edges = [EVERY_AREA[0], *inner.tolist(), EVERY_AREA[1]]
    rows = []
    for low, high in pairwise(edges):
        below = high if high == EVERY_AREA[1] else math.nextafter(high, 0)
        inside = (areas >= low) & (areas <= below)
        rows.append(
            {
                "from_px": math.sqrt(low),
                "to_px": None if high == EVERY_AREA[1] else math.sqrt(high),
                "truths": int(inside.sum()),
                **_judged(case, (low, below)),
            }
        )
    return rows


def _judged(case: Case, area: tuple[float, float]) -> dict[str, float | None]:
    matches = match(case, OVERLAPS, area=area)
    once = np.ones((1, len(case.images)), dtype=np.int32)
    found = drawn_precisions(matches, once)
    recalls = [
        each.hit.sum(axis=1).mean() / each.positives.sum()
        for each in matches
        if each.positives.any()
    ]
    means = {name: over_classes(values)[0] for name, values in found.items()}
    return {
        **{name: None if np.isnan(value) else float(value) for name, value in means.items()},
        "AR100": float(np.mean(recalls)) if recalls else None,
    }
