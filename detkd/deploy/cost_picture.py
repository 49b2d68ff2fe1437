"""A picture of where the time goes: a bar for each detector, stacked part by part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkd.deploy.cost_table import RUNTIMES
from detkd.evaluation.canvas import pyplot, save
from detkd.models.costs import PARTS


def plot_costs(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Write the ms of each row by part as PNG: a panel for each runtime that was measured."""
    runtimes = [name for name in RUNTIMES if f"{name}_ms" in rows[0]]
    figure, axes = pyplot().subplots(
        1,
        len(runtimes),
        figsize=(1.5 + 5.5 * len(runtimes), 1.8 + 0.34 * len(rows)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    names = [row["name"] for row in rows]
    for axis, runtime in zip(axes[0], runtimes, strict=True):
        left = [0.0] * len(rows)
        for at, (part, title) in enumerate(PARTS.items()):
            ms = [row[f"{runtime}_ms"][part] for row in rows]
            axis.barh(range(len(rows)), ms, left=left, color=f"C{at}", label=title)
            left = [start + width for start, width in zip(left, ms, strict=True)]
        axis.set_yticks(range(len(rows)), names)
        axis.set_xlabel("ms a frame")
        axis.set_title(RUNTIMES[runtime])
    axes[0][0].invert_yaxis()
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4)
    save(figure, path)
