"""Pictures of the cells that the page shows."""

from __future__ import annotations

import io
import math

import numpy as np

from detkd.deploy.counting.counter import Counted
from detkd.deploy.counting.images import can_read, read_frame
from detkd.deploy.counting.showcase import Cell

TALLEST = 112  # px, of a picture
MARGIN = 0.15  # around a box, of its longer side


def pictures_of(counted: Counted) -> tuple[dict[str, list[tuple[Cell, bytes]]], str | None]:
    """JPEGs of the chosen cells by class, and a sentence if there are none or fewer."""
    chosen = {label: counted.showcase.chosen(label) for label in counted.settings.classes}
    wanted = sum(map(len, chosen.values()))
    root = counted.settings.images
    if not wanted:
        return {}, "Nothing was counted, so there are no pictures."
    if root is None or not root.is_dir():
        return {}, "The folder of the images is not here, so there are no pictures of cells."
    if not can_read():
        return {}, "Neither Pillow nor OpenCV is installed, so there are no pictures of cells."
    by_frame: dict[str, list[Cell]] = {}
    for cells in chosen.values():
        for cell in cells:
            by_frame.setdefault(cell.frame, []).append(cell)
    made: dict[Cell, bytes] = {}
    for frame, cells in by_frame.items():
        pixels = read_frame(root, frame, cells[0].size)
        if pixels is not None:
            made.update((cell, jpeg_of(around(cell.box, pixels))) for cell in cells)
    pictures = {
        label: [(cell, made[cell]) for cell in cells if cell in made]
        for label, cells in chosen.items()
    }
    missing = wanted - sum(map(len, pictures.values()))
    return (
        {label: cells for label, cells in pictures.items() if cells},
        f"{missing} of {wanted} pictures are missing: their images cannot be read."
        if missing
        else None,
    )


def around(box: tuple[float, float, float, float], pixels: np.ndarray) -> np.ndarray:
    """The part of a frame [H, W, 3] that shows a box with a margin; at least one pixel."""
    height, width = pixels.shape[:2]
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1]) + 2
    x1, y1 = (
        min(max(0, math.floor(low - margin)), end - 1)
        for low, end in ((box[0], width), (box[1], height))
    )
    x2, y2 = (
        min(end, max(math.ceil(high + margin), low + 1))
        for high, end, low in ((box[2], width, x1), (box[3], height, y1))
    )
    return pixels[y1:y2, x1:x2]


def jpeg_of(pixels: np.ndarray) -> bytes:
    """A picture [H, W, 3] whose longer side is TALLEST; both libraries make it alike."""
    height, width = pixels.shape[:2]
    scale = TALLEST / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    try:
        from PIL import Image
    except ImportError:
        import cv2

        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        small = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), size, interpolation=way)
        return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)
    picture.save(stream, format="JPEG", quality=85)
    return stream.getvalue()
