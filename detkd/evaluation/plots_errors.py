"""Pictures of errors: what each kind costs, and which class is taken for which."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.canvas import pyplot, save, written
from detkd.evaluation.errors import KINDS

FEW = 12  # classes up to which the counts are written into the squares


def plot_errors(errors: dict[str, Any], path: Path) -> None:
    """What AP50 would gain if each kind of error were mended, and how many there are."""
    figure, axis = pyplot().subplots(figsize=(6, 3.2), layout="constrained")
    gains = [errors["gain"][kind] or 0.0 for kind in KINDS]
    bars = axis.barh(KINDS, gains, color="#D55E00")
    axis.bar_label(bars, [f" {errors['counts'][kind]}" for kind in KINDS], fontsize=8)
    axis.invert_yaxis()
    axis.margins(x=0.12)
    axis.set(xlabel="AP50 gained if mended (figure: how many)")
    axis.grid(axis="x", alpha=0.3)
    save(figure, path)


def plot_confusion(confusion: dict[str, Any], path: Path) -> None:
    """The matrix, each row as shares of its truths; the last row, without truths, of its sum."""
    counts = np.array(confusion["counts"], dtype=float)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names, every = list(map(written, confusion["classes"])), len(counts)
    side = 2.5 + 0.38 * every
    figure, axis = pyplot().subplots(figsize=(side + 0.8, side), layout="constrained")
    picture = axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axis.set_xticks(range(every), names, rotation=90, fontsize=8)
    axis.set_yticks(range(every), names, fontsize=8)
    axis.set(xlabel="detected as", ylabel="truth")
    if every <= FEW:
        for row, column in np.argwhere(counts).tolist():
            colour = "white" if shares[row, column] > 0.6 else "black"
            text = f"{counts[row, column]:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.colorbar(picture, shrink=0.7, label="share of the row")
    save(figure, path)
