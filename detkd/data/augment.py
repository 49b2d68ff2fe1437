"""Augmentations by name. Only this file knows albumentations.

To add one, list its transforms in `AUGMENTATIONS`. Cells have no up and no left: flips and turns
come first. What changes the geometry keeps the image's size, since a batch is cheapest when its
images agree.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from detkd.errors import ConfigError

if TYPE_CHECKING:
    import albumentations

SMALLEST_SHARE = 0.4  # a box that keeps less of its area in the image leaves


def _none(a: Any) -> list[Any]:
    return []


def _flip(a: Any) -> list[Any]:
    return [a.HorizontalFlip(p=0.5), a.VerticalFlip(p=0.5)]


def _turns(a: Any) -> list[Any]:
    """The eight ways to lay a slide down."""
    return [*_flip(a), a.RandomRotate90(p=0.5)]


def _microscope(a: Any) -> list[Any]:
    """Turns, and what changes from one microscope and one sample to the next."""
    return [
        *_turns(a),
        a.RandomBrightnessContrast(0.2, 0.2, p=0.5),
        a.HueSaturationValue(5, 15, 0, p=0.3),
        a.GaussianBlur(blur_limit=(3, 5), p=0.1),
        a.GaussNoise(std_range=(0.01, 0.03), p=0.1),
    ]


def _strong(a: Any) -> list[Any]:
    """The same, and scale-and-crop: nearer, farther, shifted; the border is mirrored."""
    import cv2

    return [
        *_microscope(a),
        a.Affine(
            scale=(0.7, 1.4),
            translate_percent=(-0.15, 0.15),
            border_mode=cv2.BORDER_REFLECT_101,
            p=0.7,
        ),
    ]


def _zoom(a: Any) -> list[Any]:
    """The same again, with the border drawn out: no cell is seen twice, once without its box."""
    import cv2

    return [
        *_microscope(a),
        a.Affine(
            scale=(0.8, 1.4),
            translate_percent=(-0.1, 0.1),
            border_mode=cv2.BORDER_REPLICATE,
            p=0.7,
        ),
    ]


AUGMENTATIONS: dict[str, Callable[[Any], list[Any]]] = {
    "none": _none,
    "flip": _flip,
    "turns": _turns,
    "microscope": _microscope,
    "strong": _strong,
    "zoom": _zoom,
}
# How many views of an image there are at all, where that is a number.
VIEWS = {"none": 1, "flip": 4, "turns": 8}


class Augment:
    """A named augmentation whose outcome depends on image, boxes and seed alone."""

    def __init__(self, name: str) -> None:
        if name not in AUGMENTATIONS:
            raise ConfigError(
                f"data.augment: no augmentation '{name}'; there are {', '.join(AUGMENTATIONS)}."
            )
        self.name = name

    def __call__(
        self, image: np.ndarray, boxes: np.ndarray, seed: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Augmented image [H, W, 3] uint8, boxes [M, 4] xyxy px, and which of the N they are.

        A mirrored border shows cells a second time; they carry no box, as cells cut by a real
        border that an annotator left out do not.
        """
        if self.name == "none":
            return image, boxes, np.arange(len(boxes))
        pipeline = _pipeline(self.name)
        # Not `set_random_seed`: it gives each transform the same draws, so that all happen or none.
        pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        out = pipeline(image=image, bboxes=boxes.astype(np.float64), rows=np.arange(len(boxes)))
        kept = np.asarray(out["rows"], dtype=np.int64)
        return out["image"], np.asarray(out["bboxes"], dtype=np.float32).reshape(-1, 4), kept


@functools.cache
def _pipeline(name: str) -> albumentations.Compose:
    """One pipeline a process and name; built late, since the library takes a second to import."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    boxes = albumentations.BboxParams(
        format="pascal_voc", label_fields=["rows"], min_visibility=SMALLEST_SHARE, clip=True
    )
    return albumentations.Compose(AUGMENTATIONS[name](albumentations), bbox_params=boxes)
