"""Pictures of a judgement: precision over recall, AP by class, the worst images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.canvas import STYLES, picture, pyplot, save, written
from detkd.evaluation.case import Case
from detkd.evaluation.coco_map import RECALLS, accumulate
from detkd.evaluation.matching import match
from detkd.evaluation.plots_counts import plot_agreement, plot_diameters
from detkd.evaluation.plots_errors import plot_confusion, plot_errors
from detkd.evaluation.plots_scores import plot_f1, plot_reliability
from detkd.pixels import page_of


def plot_all(
    case: Case, metrics: dict[str, Any], folder: Path, *, images: Path | None
) -> dict[str, Path]:
    """Write per_class.png, pr_curves.png and, where all images are, worst_images.png.

    The pictures are given by the heading that they have in a report.
    """
    said = {
        "AP by class": folder / "per_class.png",
        "Precision over recall": folder / "pr_curves.png",
    }
    plot_classes(metrics["per_class"], folder / "per_class.png")
    plot_precision(case, folder / "pr_curves.png")
    names = [str(image.get("file_name", "")) for image in case.images]
    if names and images is not None and all(page_of(images / name)[0].is_file() for name in names):
        said["The images with most mistakes"] = folder / "worst_images.png"
        plot_worst(case, _thresholds(metrics), images, folder / "worst_images.png")
    return said


def plot_analysis(case: Case, metrics: dict[str, Any], folder: Path) -> dict[str, Path]:
    """Write the pictures of what `analyse` found; by heading, as `plot_all`."""
    said = {
        "F1 over score": folder / "f1_curves.png",
        "What each kind of error costs": folder / "errors.png",
        "What is taken for what": folder / "confusion.png",
        "Are scores chances of being right?": folder / "reliability.png",
        "Counted against annotated": folder / "bland_altman.png",
    }
    plot_f1(case, folder / "f1_curves.png")
    plot_errors(metrics["errors"], folder / "errors.png")
    plot_confusion(metrics["confusion"], folder / "confusion.png")
    plot_reliability(metrics["calibration"], folder / "reliability.png")
    plot_agreement(case, _thresholds(metrics), folder / "bland_altman.png")
    if metrics["sizes"]["um"]:
        said["Sizes in µm"] = folder / "diameters.png"
        plot_diameters(metrics["sizes"]["um"], folder / "diameters.png")
    return said


def _thresholds(metrics: dict[str, Any]) -> np.ndarray:
    return np.array(list(metrics["counts"]["thresholds"].values()), dtype=float)


def plot_precision(case: Case, path: Path) -> None:
    """Precision over recall at overlap 0.5, a line a class."""
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    curves = accumulate(case).precision[0, :, :, 0, -1].T
    for at, (name, precision) in enumerate(zip(case.names, curves, strict=True)):
        if precision.min() < 0:
            continue  # no truth of this class
        style = STYLES[at // 10 % len(STYLES)]
        axis.plot(RECALLS, precision, style, label=f"{written(name)} {precision.mean():.2f}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="overlap 0.5")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=7, ncols=1 + len(axis.lines) // 12)
    save(figure, path)


def plot_classes(table: dict[str, dict[str, Any]], path: Path) -> None:
    """AP and AP50 of each class, with the number of annotated objects."""
    plt = pyplot()
    known = {name: row for name, row in table.items() if row["AP"] is not None}
    figure, axis = plt.subplots(figsize=(6, 1 + 0.4 * max(1, len(known))), layout="constrained")
    places = np.arange(len(known))
    for offset, key, colour in ((-0.2, "AP", "#0072B2"), (0.2, "AP50", "#56B4E9")):
        axis.barh(
            places + offset, [row[key] for row in known.values()], 0.4, label=key, color=colour
        )
    axis.set_yticks(places, [f"{written(name)} ({row['truths']})" for name, row in known.items()])
    axis.set(xlim=(0, 1))
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)
    save(figure, path)


def plot_worst(
    case: Case, thresholds: np.ndarray, images: Path, path: Path, *, count: int = 9
) -> None:
    """The images with most objects missed and invented: truth solid, detections dashed."""
    plt = pyplot()
    truths, found = case.truths, case.detections
    kept = found.score >= thresholds[found.category]
    mistakes = _mistakes(case, kept)
    worst = np.argsort(-mistakes, kind="stable")[:count].tolist()
    columns = min(3, len(worst))
    rows = -(-len(worst) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3.3 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, at in zip(axes.flat, worst, strict=False):
        name = str(case.images[at]["file_name"])
        axis.imshow(picture(images / name))
        axis.set_title(f"{written(name)}: {mistakes[at]} mistakes", fontsize=7)
        for boxes, colour, style in (
            (truths.box[truths.image == at], "#009E73", "-"),
            (found.box[kept & (found.image == at)], "#D55E00", "--"),
        ):
            for x, y, width, height in boxes.tolist():
                axis.add_patch(
                    plt.Rectangle((x, y), width, height, fill=False, color=colour, linestyle=style)
                )
    figure.suptitle("truth: green, solid; detections: orange, dashed")
    save(figure, path)


def _mistakes(case: Case, kept: np.ndarray) -> np.ndarray:
    """[images]: objects missed plus objects invented by the kept detections, at overlap 0.5."""
    every = len(case.images)
    wrong = np.zeros(every, dtype=np.int64)
    for matched in match(case):
        shown = kept[matched.detection]
        hit = matched.hit[0] & shown
        invented = shown & ~hit & ~matched.ignored[0]
        wrong += np.bincount(matched.image[invented], minlength=every) + matched.positives
        wrong -= np.bincount(matched.image[hit], minlength=every)
    return wrong
