"""Frames on which exported detectors go wrong: empty, crowded, black, saturated, of odd sizes."""

from __future__ import annotations

import numpy as np

KINDS = ("empty", "one object", "hundreds of objects", "black", "saturated", "noise")
_RATIOS = (1.0, 0.75, 0.56, 0.31, 0.11, 0.03)


def made_frame(at: int, image_size: int) -> tuple[str, np.ndarray]:
    """The kind and the pixels [3, H, W] float32 from 0 to 1 of frame `at`, the same each time.

    Kinds take turns; its longest side is `image_size`, the other one anything down to 3 %.
    """
    random = np.random.default_rng([at, image_size])
    kind = KINDS[at % len(KINDS)]
    ratio = _RATIOS[at // len(KINDS) % len(_RATIOS)] * random.uniform(0.9, 1.0)
    height, width = image_size, max(2, round(image_size * ratio))
    if random.random() < 0.5:
        height, width = width, height
    if kind == "black":
        return kind, np.zeros((3, height, width), np.float32)
    if kind == "saturated":
        return kind, np.ones((3, height, width), np.float32)
    if kind == "noise":
        return kind, random.random((3, height, width), np.float32)
    frame = np.full((3, height, width), random.uniform(0.5, 0.9), np.float32)
    frame += random.normal(0, 0.02, frame.shape).astype(np.float32)
    for _ in range({"empty": 0, "one object": 1}.get(kind, 300)):
        _draw(frame, random)
    return kind, frame.clip(0, 1)


def _draw(frame: np.ndarray, random: np.random.Generator) -> None:
    """One ellipse, darker than what surrounds it."""
    _, height, width = frame.shape
    radii = random.uniform(1.5, max(2.0, max(height, width) / 10), 2)
    y, x = random.uniform(0, height), random.uniform(0, width)
    rows = slice(max(0, int(y - radii[0])), int(y + radii[0]) + 2)
    columns = slice(max(0, int(x - radii[1])), int(x + radii[1]) + 2)
    part = frame[:, rows, columns]
    grid = np.ogrid[: part.shape[1], : part.shape[2]]
    off = [grid[0] + rows.start - y, grid[1] + columns.start - x]
    inside = (off[0] / radii[0]) ** 2 + (off[1] / radii[1]) ** 2 <= 1
    part[:, inside] *= random.uniform(0.2, 0.9, (3, 1)).astype(np.float32)
