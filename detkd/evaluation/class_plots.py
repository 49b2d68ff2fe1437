"""Pictures of a classifier's judgement: confusion, calibration, coverage, the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detkd.evaluation.calibration import reliability
from detkd.evaluation.canvas import picture, pyplot, save
from detkd.evaluation.classes import confusion
from detkd.evaluation.unknown import coverage_curve

WORST = 24  # mistakes on the contact sheet


def plot_classes(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    files: Sequence[Path] | None,
    folder: Path,
    mended: np.ndarray,
) -> None:
    """Write confusion.png, calibration.png and, where there are mistakes, worst_mistakes.png.

    `mended` are the probabilities after temperature scaling. Without files, mistakes are not shown.
    """
    plot_confusion(confusion(probabilities, labels), classes, folder / "confusion.png")
    plot_trust(probabilities, mended, labels, folder / "calibration.png")
    if files is not None:
        plot_mistakes(probabilities, labels, classes, files, folder / "worst_mistakes.png")


def plot_confusion(counts: np.ndarray, classes: Sequence[str], path: Path) -> None:
    """Shares of each true class (a row) by what was said, with the numbers of images."""
    plt = pyplot()
    side = 2 + 0.38 * len(classes)
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True):
        colour = "white" if shares[row, column] > 0.6 else "black"
        axis.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            color=colour,
            fontsize=7,
        )
    places = range(len(classes))
    axis.set_xticks(places, classes, rotation=90, fontsize=8, parse_math=False)
    axis.set_yticks(places, classes, fontsize=8, parse_math=False)
    axis.set(xlabel="said", ylabel="true")
    save(figure, path)


def plot_trust(
    probabilities: np.ndarray, mended: np.ndarray, labels: np.ndarray, path: Path
) -> None:
    """Share right over confidence as trained and as mended, and accuracy over coverage as mended.

    The thresholds of 'unknown' are of the mended probabilities.
    """
    plt = pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    left.plot([0, 1], [0, 1], "--", color="grey")
    for each, name in ((probabilities, "as trained"), (mended, "temperature scaled")):
        points = reliability(each, labels)
        left.plot([p[0] for p in points], [p[1] for p in points], marker="o", label=name)
    left.legend(fontsize=8)
    left.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1.02))
    curve = coverage_curve(mended, labels)
    right.plot([p["coverage"] for p in curve], [p["accuracy"] for p in curve])
    right.set(xlabel="share that gets a class", ylabel="accuracy of those", xlim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    save(figure, path)


def plot_mistakes(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    files: Sequence[Path],
    path: Path,
    *,
    count: int = WORST,
) -> None:
    """A contact sheet of the mistakes that the classifier was surest of."""
    said = probabilities.argmax(1)
    wrong = np.flatnonzero(said != labels)
    order = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")][:count]
    if not len(order):
        path.unlink(missing_ok=True)
        return
    plt = pyplot()
    columns = min(6, len(order))
    rows = -(-len(order) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.8 * columns, 2.1 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, at in zip(axes.flat, order, strict=False):
        axis.imshow(picture(files[at]))
        sure = probabilities[at].max()
        axis.set_title(
            f"{classes[labels[at]]}\nsaid {classes[said[at]]} {sure:.2f}",
            fontsize=7,
            parse_math=False,
        )
    save(figure, path)
