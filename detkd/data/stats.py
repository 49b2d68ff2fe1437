"""What a data set holds, in pictures: boxes a class, sizes, shapes, and where they lie."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkd.data.records import ImageRecord

BLUE = "#0072B2"
SHAPES = [0.1, 0.2, 0.5, 1, 2, 5, 10]  # marks of width / height
MOST_CLASSES = 40  # bars in the plot of classes


@dataclass(frozen=True)
class Boxes:
    """All boxes of a data set: sides in px, centres as fractions of their images."""

    classes: dict[str, int]
    sides: np.ndarray  # [N, 2]
    centres: np.ndarray  # [N, 2]
    an_image: np.ndarray  # [images]


def collect(images: Iterable[ImageRecord]) -> Boxes:
    """Numbers of the boxes, gone through once."""
    classes: Counter[str] = Counter()
    rows: list[tuple[float, float, float, float]] = []
    counts: list[int] = []
    for image in images:
        counts.append(len(image.boxes))
        for box in image.boxes:
            classes[box.label] += 1
            rows.append(
                (
                    box.xmax - box.xmin,
                    box.ymax - box.ymin,
                    (box.xmin + box.xmax) / 2 / image.width,
                    (box.ymin + box.ymax) / 2 / image.height,
                )
            )
    table = np.array(rows, dtype=np.float32).reshape(-1, 4)
    return Boxes(dict(classes.most_common()), table[:, :2], table[:, 2:], np.array(counts, int))


def plot_counts(boxes: Boxes) -> bytes:
    """Boxes a class, and boxes an image."""
    plt = _pyplot()
    shown = dict(list(boxes.classes.items())[:MOST_CLASSES])
    height = max(3.2, 1 + 0.25 * len(shown))
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, height), layout="constrained")
    places = np.arange(len(shown))
    bars = left.barh(places, list(shown.values()), color=BLUE)
    left.bar_label(bars, padding=2, fontsize=7)
    left.set_yticks(places, [name[:40] for name in shown], fontsize=8, parse_math=False)
    left.invert_yaxis()
    left.set(xlabel="boxes", title=f"{len(boxes.classes)} classes")
    most = int(boxes.an_image.max(initial=0))
    right.hist(boxes.an_image, bins=np.arange(min(most, 60) + 2) - 0.5, color=BLUE)
    right.set(xlabel="boxes an image", ylabel="images")
    return _png(figure)


def plot_boxes(boxes: Boxes) -> bytes:
    """Sizes, aspect ratios, and a heat map of the centres."""
    plt = _pyplot()
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.8), layout="constrained")
    sizes = np.sqrt(boxes.sides.prod(axis=1).clip(1e-6))
    left.hist(sizes, bins=_log_bins(sizes), color=BLUE)
    left.set(xscale="log", xlabel="√(width x height) in px", ylabel="boxes", title="size")
    for limit in (32, 96):  # COCO's small, medium and large
        left.axvline(limit, color="0.4", linestyle=":", linewidth=1)
    ratios = boxes.sides[:, 0] / boxes.sides[:, 1].clip(1e-6)
    middle.hist(ratios, bins=_log_bins(ratios), color=BLUE)
    middle.set(xscale="log", xlabel="width / height", ylabel="boxes", title="shape")
    middle.xaxis.set_major_locator(plt.FixedLocator(SHAPES))
    middle.xaxis.set_minor_locator(plt.NullLocator())
    middle.xaxis.set_major_formatter("{x:g}")
    heat, _, _ = np.histogram2d(
        boxes.centres[:, 1], boxes.centres[:, 0], bins=24, range=((0, 1), (0, 1))
    )
    picture = right.imshow(heat, extent=(0, 1, 1, 0), cmap="viridis")
    right.set(title="centres", xlabel="x / width", ylabel="y / height")
    figure.colorbar(picture, ax=right, label="boxes", shrink=0.8)
    return _png(figure)


def _log_bins(values: np.ndarray) -> np.ndarray:
    low, high = (values.min(), values.max()) if values.size else (1.0, 2.0)
    return np.geomspace(max(low, 1e-3) * 0.99, max(high, 2e-3) * 1.01, 40)


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, dpi=90, format="png")
    _pyplot().close(figure)
    return stream.getvalue()
