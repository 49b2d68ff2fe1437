"""Images made of two: cells pasted from another image, or two images laid over each other.

Both depend on the two images and a random generator alone. Boxes are xyxy in px.
"""

from __future__ import annotations

import numpy as np

PASTED = 4  # cells at most
FREE = 0.1  # share of a place that may lie under other boxes
TRIES = 10  # places that are tried for a cell
MARGIN = 0.15  # of a cell's side that is taken along and faded out

View = tuple[np.ndarray, np.ndarray, np.ndarray]  # image [H, W, 3] uint8, boxes [N, 4], labels [N]


def paste_cells(view: View, donor: View, random: np.random.Generator) -> View:
    """Up to four cells of `donor` in free places of `view`, turned, and faded into what is there.

    A cell brings its surroundings along: their brightness and colour are shifted to those of the
    place, and they fade out, so that no frame shows (after Dwibedi et al., 'Cut, paste and learn',
    ICCV 2017, with boxes alone).
    """
    image, boxes, labels = view[0].copy(), view[1], view[2]
    height, width = image.shape[:2]
    for at in random.permutation(len(donor[1]))[:PASTED]:
        cell = _cut(donor[0], donor[1][at])
        if cell is None:
            continue
        patch, inner = _turned(*cell, int(random.integers(8)))
        tall, wide = patch.shape[:2]
        if tall > height or wide > width:
            continue
        for _ in range(TRIES):
            top = int(random.integers(height - tall + 1))
            left = int(random.integers(width - wide + 1))
            box = inner + np.array([left, top, left, top], np.float32)
            if _covered(box, boxes) <= FREE:
                place = image[top : top + tall, left : left + wide]
                place[:] = _faded(patch, place)
                boxes = np.concatenate([boxes, box[None]])
                labels = np.append(labels, donor[2][at])
                break
    return image, boxes, labels


def overlay(view: View, other: View, random: np.random.Generator) -> View:
    """Both images at once, 30 to 70 % each, with the boxes of both (as in Zhang et al., 2019)."""
    share = float(random.uniform(0.3, 0.7))
    height = max(view[0].shape[0], other[0].shape[0])
    width = max(view[0].shape[1], other[0].shape[1])
    padded = [
        np.pad(
            image,
            ((0, height - image.shape[0]), (0, width - image.shape[1]), (0, 0)),
            mode="symmetric",
        ).astype(np.float32)
        for image in (view[0], other[0])
    ]
    mixed = np.round(share * padded[0] + (1 - share) * padded[1]).astype(np.uint8)
    return mixed, np.concatenate([view[1], other[1]]), np.concatenate([view[2], other[2]])


def _cut(image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The cell with its margin, and its box in there; None for one that is too small to show."""
    height, width = image.shape[:2]
    side = box[2:] - box[:2]
    if side.min() < 4:
        return None
    margin = np.maximum(2, MARGIN * side)
    left, top = np.floor(np.maximum(0, box[:2] - margin)).astype(int)
    right, bottom = np.ceil(np.minimum([width, height], box[2:] + margin)).astype(int)
    inner = (box - np.array([left, top, left, top])).astype(np.float32)
    return image[top:bottom, left:right], inner


def _turned(patch: np.ndarray, box: np.ndarray, way: int) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight ways to lay a patch down."""
    if way >= 4:
        width = patch.shape[1]
        patch = patch[:, ::-1]
        box = np.array([width - box[2], box[1], width - box[0], box[3]], np.float32)
    for _ in range(way % 4):
        width = patch.shape[1]
        patch = np.rot90(patch)  # against the clock: what was right is up
        box = np.array([box[1], width - box[2], box[3], width - box[0]], np.float32)
    return patch, box


def _covered(box: np.ndarray, boxes: np.ndarray) -> float:
    """Greatest share of a box, or of one of the boxes, that lies under the other."""
    if not len(boxes):
        return 0.0
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = (high - low).clip(0).prod(1)
    smaller = np.minimum((boxes[:, 2:] - boxes[:, :2]).prod(1), (box[2:] - box[:2]).prod())
    return float((shared / np.maximum(smaller, 1e-6)).max())


def _faded(patch: np.ndarray, place: np.ndarray) -> np.ndarray:
    """The patch in its place: shifted to the place's colour, fading to it at the border."""
    ours, theirs = (np.median(_frame(each), axis=0) for each in (patch, place))
    shifted = patch.astype(np.float32) + (theirs - ours)
    weights = [
        np.clip(_to_border(side) / max(1.0, MARGIN * side), 0, 1) for side in patch.shape[:2]
    ]
    weight = (weights[0][:, None] * weights[1][None, :])[..., None]
    mixed = weight * shifted + (1 - weight) * place
    return np.round(mixed.clip(0, 255)).astype(np.uint8)


def _frame(image: np.ndarray) -> np.ndarray:
    """The pixels [K, 3] of an image's border."""
    return np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(np.float32)


def _to_border(side: int) -> np.ndarray:
    """Distance of each row to the nearer border in px, from 0."""
    places = np.arange(side)
    return np.minimum(places, side - 1 - places).astype(np.float32)
