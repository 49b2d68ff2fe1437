"""Pictures of a judgement: precision over recall, AP by class, the worst images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.coco_map import coco_map, precision_curves
from detkd.evaluation.results import Result
from detkd.files import write_with


def plot_all(
    truth: dict[str, Any], results: Sequence[Result], folder: Path, *, images: Path | None
) -> None:
    """Write pr_curves.png, per_class.png and, where the images are, worst_images.png."""
    plot_precision(truth, results, folder / "pr_curves.png")
    plot_classes(truth, results, folder / "per_class.png")
    if images is not None and all((images / i["file_name"]).is_file() for i in truth["images"]):
        plot_worst(truth, results, images, folder / "worst_images.png")


def plot_precision(truth: dict[str, Any], results: Sequence[Result], path: Path) -> None:
    """Precision over recall at overlap 0.5, a line a class."""
    plt = _pyplot()
    figure, axis = plt.subplots(figsize=(6, 4.5), layout="constrained")
    for at, (name, precision) in enumerate(precision_curves(truth, results).items()):
        style = ("-", "--", ":", "-.")[at // 10 % 4]
        axis.plot(np.linspace(0, 1, 101), precision, style, label=f"{name} {precision.mean():.2f}")
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="overlap 0.5")
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=7, ncols=1 + len(axis.lines) // 12)
    _save(figure, path)


def plot_classes(truth: dict[str, Any], results: Sequence[Result], path: Path) -> None:
    """AP and AP50 of each class, with the number of annotated objects."""
    plt = _pyplot()
    table = coco_map(truth, results)["per_class"]
    known = {name: row for name, row in table.items() if row["AP"] is not None}
    figure, axis = plt.subplots(figsize=(6, 1 + 0.4 * max(1, len(known))), layout="constrained")
    places = np.arange(len(known))
    for offset, key, colour in ((-0.2, "AP", "#0072B2"), (0.2, "AP50", "#56B4E9")):
        axis.barh(
            places + offset, [row[key] for row in known.values()], 0.4, label=key, color=colour
        )
    axis.set_yticks(places, [f"{name} ({row['truths']})" for name, row in known.items()])
    axis.set(xlim=(0, 1))
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    axis.legend(fontsize=8)
    _save(figure, path)


def plot_worst(
    truth: dict[str, Any],
    results: Sequence[Result],
    images: Path,
    path: Path,
    *,
    count: int = 9,
    threshold: float = 0.5,
) -> None:
    """The images with most objects missed and invented: truth solid, detections dashed."""
    from PIL import Image, ImageOps

    plt = _pyplot()
    shown: dict[Any, tuple[list[Any], list[Any]]] = {
        image["id"]: ([], []) for image in truth["images"]
    }
    for box in truth["annotations"]:
        shown[box["image_id"]][0].append(box)
    for result in results:
        if result["score"] >= threshold:
            shown[result["image_id"]][1].append(result)
    mistakes = {key: _mistakes(*pair) for key, pair in shown.items()}
    worst = sorted(truth["images"], key=lambda image: (-mistakes[image["id"]], image["id"]))[:count]
    columns = min(3, len(worst))
    rows = -(-len(worst) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(4 * columns, 3.3 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, image in zip(axes.flat, worst, strict=False):
        with Image.open(images / image["file_name"]) as opened:
            axis.imshow(ImageOps.exif_transpose(opened).convert("RGB"))
        axis.set_title(f"{image['file_name']}: {mistakes[image['id']]} mistakes", fontsize=7)
        for boxes, colour, style in zip(
            shown[image["id"]], ("#009E73", "#D55E00"), ("-", "--"), strict=True
        ):
            for box in boxes:
                x, y, width, height = box["bbox"]
                axis.add_patch(
                    plt.Rectangle((x, y), width, height, fill=False, color=colour, linestyle=style)
                )
    figure.suptitle("truth: green, solid; detections: orange, dashed")
    _save(figure, path)


def _mistakes(truths: list[dict[str, Any]], found: list[Result]) -> int:
    """Objects missed plus objects invented, matched greedily by overlap 0.5 within a class."""
    from detkd.evaluation.voc_map import OVERLAP, overlap

    left = list(truths)
    invented = 0
    for result in sorted(found, key=lambda result: -result["score"]):
        overlaps = [
            overlap(result["bbox"], box["bbox"])
            if box["category_id"] == result["category_id"]
            else 0.0
            for box in left
        ]
        if overlaps and max(overlaps) >= OVERLAP:
            left.pop(int(np.argmax(overlaps)))
        else:
            invented += 1
    return len(left) + invented


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure: Any, path: Path) -> None:
    write_with(path, lambda stream: figure.savefig(stream, dpi=110, format="png"))
    _pyplot().close(figure)
