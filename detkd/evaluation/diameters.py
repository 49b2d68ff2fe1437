"""Sizes in µm, where a scale is given: of what is annotated, and of what is counted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from detkd.errors import DataError
from detkd.evaluation.case import Case

MOST_BINS = 30


def scales_of(case: Case, um_per_px: float | None) -> np.ndarray:
    """[images]: µm a pixel, what the image itself says (`um_per_px`) first; NaN where unknown.

    Raises:
        DataError: a scale that is no number above 0.
    """
    scales = []
    for image in case.images:
        scale = image.get("um_per_px", um_per_px)
        if scale is not None and not _above_zero(scale):
            raise DataError(
                f"image {image['id']!r} has um_per_px {scale!r}; a number above 0 is needed."
            )
        scales.append(math.nan if scale is None else float(scale))
    return np.array(scales, dtype=float)


def diameters(
    case: Case, thresholds: np.ndarray, um_per_px: float | None = None
) -> dict[str, Any] | None:
    """Equivalent diameters in µm per class, annotated and counted; None where no scale is known.

    The diameter of the circle that has the area of the ellipse inside the box:
    d = s √(w h),  s in µm a pixel. Both sides are taken from boxes, so that they compare.
    """
    scales = scales_of(case, um_per_px)
    if np.isnan(scales).all():
        return None
    truths, found = case.truths, case.detections
    kept = found.score >= thresholds[found.category]
    sides = {
        "annotated": _side(truths.image, truths.category, truths.box, ~truths.crowd, scales),
        "counted": _side(found.image, found.category, found.box, kept, scales),
    }
    return {
        "unit": "um",
        "images_without_scale": int(np.isnan(scales).sum()),
        "all": {side: _summary(sizes) for side, (sizes, _) in sides.items()},
        "per_class": {
            name: {side: _summary(sizes[of == at]) for side, (sizes, of) in sides.items()}
            for at, name in enumerate(case.names)
        },
        "histogram": _histogram({side: sizes for side, (sizes, _) in sides.items()}),
    }


def _side(
    image: np.ndarray, category: np.ndarray, box: np.ndarray, kept: np.ndarray, scales: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Diameters and classes of the boxes that are kept and have a scale."""
    scale = scales[image]
    kept = kept & ~np.isnan(scale)
    return (scale * np.sqrt(box[:, 2] * box[:, 3]))[kept], category[kept]


def _summary(sizes: np.ndarray) -> dict[str, Any]:
    if not len(sizes):
        return {"objects": 0, "mean": None, "p10": None, "median": None, "p90": None}
    tenth, median, ninetieth = np.percentile(sizes, [10, 50, 90]).tolist()
    return {
        "objects": len(sizes),
        "mean": float(sizes.mean()),
        "p10": tenth,
        "median": median,
        "p90": ninetieth,
    }


def _histogram(sides: dict[str, np.ndarray]) -> dict[str, Any]:
    """Both sides in the same bins, whose width follows Freedman and Diaconis (1981)."""
    together = np.concatenate(list(sides.values()))
    if not len(together):
        return {"edges": [], **{side: [] for side in sides}}
    low, high = float(together.min()), float(together.max())
    quarter, three = np.percentile(together, [25, 75])
    width = 2 * (three - quarter) / len(together) ** (1 / 3)
    bins = min(MOST_BINS, max(1, math.ceil((high - low) / width))) if width > 0 else 1
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    return {
        "edges": edges.tolist(),
        **{side: np.histogram(sizes, edges)[0].tolist() for side, sizes in sides.items()},
    }


def _above_zero(value: Any) -> bool:
    return (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value > 0
    )
