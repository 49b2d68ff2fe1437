"""Pictures of counts and sizes, as a lab looks at them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.bootstrap import groups_of, unit_of
from detkd.evaluation.canvas import pyplot, save
from detkd.evaluation.case import Case
from detkd.evaluation.counts import agreement, count


def plot_agreement(case: Case, thresholds: np.ndarray, path: Path) -> None:
    """Counted minus annotated over their mean, a point a sample, with the limits of agreement.

    Bland and Altman (The Lancet 1986). Where no samples are named, a point is an image.
    """
    counts = count(case, thresholds).by_group(groups_of(case))
    annotated, counted = counts.annotated.sum(axis=1), counts.counted.sum(axis=1)
    off = counted - annotated
    figure, axis = pyplot().subplots(figsize=(6, 4), layout="constrained")
    axis.scatter((annotated + counted) / 2, off, s=14, alpha=0.6, color="#0072B2")
    axis.axhline(0, color="#888888", linewidth=0.8)
    if len(off):
        axis.axhline(off.mean(), color="#D55E00", label=f"bias {off.mean():+.2f}")
    if limits := agreement(off):
        for at, limit in enumerate(limits):
            said = f"limits of agreement {limits[0]:+.2f}, {limits[1]:+.2f}" if not at else None
            axis.axhline(limit, color="#D55E00", linestyle="--", label=said)
    unit = unit_of(case)
    axis.set(xlabel=f"mean of counted and annotated, by {unit}", ylabel="counted minus annotated")
    axis.grid(alpha=0.3)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=8)
    save(figure, path)


def plot_diameters(sizes: dict[str, Any], path: Path) -> None:
    """Equivalent diameters in µm of what is annotated and what is counted, in the same bins."""
    histogram = sizes["histogram"]
    figure, axis = pyplot().subplots(figsize=(6, 4), layout="constrained")
    for side, colour in (("annotated", "#009E73"), ("counted", "#D55E00")):
        if histogram["edges"]:
            axis.stairs(histogram[side], histogram["edges"], color=colour, label=side, linewidth=2)
    axis.set(xlabel="equivalent diameter, µm", ylabel="objects")
    axis.grid(alpha=0.3)
    if histogram["edges"]:
        axis.legend(fontsize=8)
    save(figure, path)
