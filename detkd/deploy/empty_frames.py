"""What the runner's cheap test for empty frames would pass over, on annotated images."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from detkd.data.dataset import CocoDataset
from detkd.deploy.runner import busyness
from detkd.errors import DataError
from detkd.pixels import eight_bit, read_pixels

LIMITS = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 15.0, 20.0)
PARTS = 3  # a side: annotated images are seldom empty, their ninths often are


def measure_empty(truth: Path) -> dict[str, Any]:
    """For each limit of `--skip-empty`, what of the images and of their ninths is passed over.

    `frames` is the share of whole images, `empty_parts` that of the ninths that no box touches;
    `objects_lost` and `objects_lost_in_parts` are the shares of the objects in images, and of those
    with their centre in ninths, that are passed over. The test is worth its while where the empty
    ninths are many and the lost objects none.
    """
    dataset = CocoDataset(truth, image_size=64, cache="none")
    boxes: dict[Any, list[list[float]]] = {image["id"]: [] for image in dataset.truth["images"]}
    for box in dataset.truth["annotations"]:
        boxes[box["image_id"]].append(box["bbox"])
    frames, parts = [], []
    for image in dataset.truth["images"]:
        pixels = read_pixels(dataset.image_root / image["file_name"])
        if pixels is None:
            raise DataError(f"{image['file_name']}: cannot be read as an image; leave it out.")
        pixels = eight_bit(pixels, dataset.levels)
        own = np.array(boxes[image["id"]], dtype=float).reshape(-1, 4)
        frames.append((busyness(pixels), len(own)))
        parts += _parts(pixels, own)
    whole, ninths = np.array(frames), np.array(parts)
    empty = ninths[:, 2] == 0
    return {
        "images": len(whole),
        "objects": int(whole[:, 1].sum()),
        "empty_parts": int(empty.sum()),
        "limits": {
            f"{limit:g}": {
                "frames": float((whole[:, 0] < limit).mean()),
                "objects_lost": _lost(whole, limit),
                "empty_parts": float((ninths[empty, 0] < limit).mean()) if empty.any() else None,
                "objects_lost_in_parts": _lost(ninths, limit),
            }
            for limit in LIMITS
        },
    }


def _lost(rows: np.ndarray, limit: float) -> float | None:
    objects = rows[:, 1].sum()
    return float(rows[rows[:, 0] < limit, 1].sum() / objects) if objects else None


def _parts(pixels: np.ndarray, boxes: np.ndarray) -> list[tuple[float, int, int]]:
    """Of each ninth: its busyness, the objects with their centre in it, and those that touch it."""
    height, width = pixels.shape[:2]
    rows, columns = ([side * at // PARTS for at in range(PARTS + 1)] for side in (height, width))
    x1, y1 = boxes[:, 0], boxes[:, 1]
    x2, y2 = x1 + boxes[:, 2], y1 + boxes[:, 3]
    found = []
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            if bottom == top or right == left:
                continue
            x, y = (x1 + x2) / 2, (y1 + y2) / 2
            centred = (x >= left) & (x < right) & (y >= top) & (y < bottom)
            touching = (x1 < right) & (x2 > left) & (y1 < bottom) & (y2 > top)
            part = pixels[top:bottom, left:right]
            found.append((busyness(part), int(centred.sum()), int(touching.sum())))
    return found
