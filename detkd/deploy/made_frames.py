"""Frames on which exported detectors go wrong: empty, crowded, black, saturated, of odd sizes."""

from __future__ import annotations

import numpy as np

KINDS = ("empty", "one object", "hundreds of objects", "black", "saturated", "noise")
HUNDREDS = 300  # objects of a crowded frame that has room for them
CELL = 4.0  # px: the least side of the square that an object of a crowd has for itself


def made_frame(at: int, image_size: int) -> tuple[str, np.ndarray]:
    """The kind and the pixels [3, H, W] float32 from 0 to 1 of frame `at`, the same each time.

    Kinds take turns. The longest side is `image_size`, and the other one takes every length from
    1 px to that once in as many frames, in a shuffled order; where a frame lies, the next one of
    its short side stands.
    """
    random = np.random.default_rng([at, image_size])
    kind = KINDS[at % len(KINDS)]
    height, width = _sides(at, image_size)
    if kind == "black":
        return kind, np.zeros((3, height, width), np.float32)
    if kind == "saturated":
        return kind, np.ones((3, height, width), np.float32)
    if kind == "noise":
        return kind, random.random((3, height, width), np.float32)
    frame = np.full((3, height, width), random.uniform(0.5, 0.9), np.float32)
    frame += random.normal(0, 0.02, frame.shape).astype(np.float32)
    if kind == "one object":
        radii = random.uniform(1.5, max(2.0, image_size / 10), 2)
        _draw(frame, random.uniform((0, 0), (height, width)), radii, random)
    elif kind != "empty":
        _draw_crowd(frame, random)
    return kind, frame.clip(0, 1)


def _sides(at: int, image_size: int) -> tuple[int, int]:
    """Height and width of frame `at`."""
    turn, place = divmod(at, image_size)
    short = int(np.random.default_rng([turn, image_size]).permutation(image_size)[place]) + 1
    lies = (turn + short) % 2 == 0
    return (short, image_size) if lies else (image_size, short)


def _draw_crowd(frame: np.ndarray, random: np.random.Generator) -> None:
    """Hundreds of objects, or as many as there is room for, none of which touches another."""
    sides = np.array(frame.shape[1:])
    counts = np.maximum(1, sides // max(CELL, np.sqrt(sides.prod() / HUNDREDS))).astype(int)
    cell = sides / counts
    most = np.maximum(1.5, cell - 1) / 2  # a px between two stays as it is
    for place in np.ndindex(*counts):
        radii = random.uniform(0.5, 1.0, 2) * most
        middle = (np.array(place) + 0.5) * cell + random.uniform(radii - most, most - radii)
        _draw(frame, middle, radii, random)


def _draw(
    frame: np.ndarray, middle: np.ndarray, radii: np.ndarray, random: np.random.Generator
) -> None:
    """One ellipse, darker than what surrounds it; a px belongs to it if its middle does."""
    rows, columns = (
        slice(max(0, int(at - radius)), int(at + radius) + 1)
        for at, radius in zip(middle, radii, strict=True)
    )
    part = frame[:, rows, columns]
    grid = np.ogrid[: part.shape[1], : part.shape[2]]
    off = [
        line + 0.5 + side.start - at
        for line, side, at in zip(grid, (rows, columns), middle, strict=True)
    ]
    inside = (off[0] / radii[0]) ** 2 + (off[1] / radii[1]) ** 2 <= 1
    part[:, inside] *= random.uniform(0.2, 0.7, (3, 1)).astype(np.float32)
