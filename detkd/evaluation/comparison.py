"""The same images side by side: the truth, and what each of several networks found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detkd.evaluation.canvas import picture, pyplot, save, written

# Okabe and Ito's colours, which the colour-blind can tell apart.
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7", "#000000")


def draw_comparison(
    truth: dict[str, Any],
    found: Mapping[str, Sequence[dict[str, Any]]],
    image_root: Path,
    path: Path,
    *,
    count: int = 4,
    threshold: float = 0.5,
) -> None:
    """Write a picture with one row an image and one column a network, after the truth.

    Args:
        truth: COCO ground truth.
        found: COCO results by the name of the network.
        count: how many images; those with most annotated objects are taken.
        threshold: detections with a lower score are not drawn.
    """
    plt = pyplot()

    boxes_of: dict[int, list[dict[str, Any]]] = {}
    for annotation in truth["annotations"]:
        boxes_of.setdefault(annotation["image_id"], []).append(annotation)
    images = sorted(
        truth["images"], key=lambda image: (-len(boxes_of.get(image["id"], [])), image["id"])
    )[:count]
    names = {category["id"]: category["name"] for category in truth["categories"]}
    colours = {key: COLOURS[at % len(COLOURS)] for at, key in enumerate(names)}
    columns = ["truth", *found]
    figure, axes = plt.subplots(
        len(images),
        len(columns),
        figsize=(3.4 * len(columns), 2.7 * len(images)),
        layout="constrained",
        squeeze=False,
    )
    for axis, column in zip(axes[0], columns, strict=True):
        axis.set_title(column)
    for row, image in zip(axes, images, strict=True):
        pixels = picture(image_root / image["file_name"])
        for axis, column in zip(row, columns, strict=True):
            axis.imshow(pixels)
            axis.set_axis_off()
            if column == "truth":
                shown = boxes_of.get(image["id"], [])
            else:
                shown = [
                    box
                    for box in found[column]
                    if box["image_id"] == image["id"] and box["score"] >= threshold
                ]
            for box in shown:
                x, y, width, height = box["bbox"]
                colour = colours[box["category_id"]]
                axis.add_patch(
                    plt.Rectangle((x, y), width, height, fill=False, color=colour, linewidth=1.6)
                )
    handles = [
        plt.Line2D([], [], color=colours[key], linewidth=2, label=written(name))
        for key, name in names.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    save(figure, path)
