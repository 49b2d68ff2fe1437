"""From an image file to pixels: pages of a stack, displayed orientation, 16 bits to 8.

Training, judging and pictures come through here, so that all see the same image.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PAGE = re.compile(r"(?P<file>.+\.tiff?)#page=(?P<page>[1-9]\d{0,5})", re.IGNORECASE)
PAGE_MARK = "#page="
SHADES = 65536
LOW, HIGH = 0.1, 99.9  # percentiles of a data set's 16-bit pixels that become 0 and 255
RULE = (
    f"the {LOW:g}th and {HIGH:g}th percentiles of all 16-bit pixels become 0 and 255, "
    "linear between, cut outside"
)
Levels = tuple[float, float]


def page_of(path: Path) -> tuple[Path, int]:
    """The file that holds an image, and the image's page in it, from 0: stack.tif#page=2 is 1."""
    match = PAGE.fullmatch(path.name) if PAGE_MARK in path.name else None
    if match is None or path.exists():
        return path, 0
    return path.with_name(match["file"]), int(match["page"]) - 1


def read_pixels(path: Path) -> np.ndarray | None:
    """RGB pixels [H, W, 3] of the displayed frame, uint8 or uint16; None if it is no image.

    Grey becomes RGB, an alpha channel is left out. Float TIFF with values up to 1 is stretched
    over 16 bits; other values are cut to them.
    """
    import cv2

    file, page = page_of(path)
    if file.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(file, page)
    image = decoded(file, cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH)
    return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decoded(file: Path, flags: int) -> np.ndarray | None:
    """What OpenCV makes of an image file; None if it is none.

    OpenCV gets the bytes and not the name: it crashes on one that is not UTF-8, and on Windows
    finds none with letters beyond ASCII.
    """
    import cv2

    try:
        data = np.fromfile(file, np.uint8)
        return cv2.imdecode(data, flags) if len(data) else None
    except (OSError, ValueError, cv2.error):
        return None


def _read_tiff(file: Path, page: int) -> np.ndarray | None:
    """Pillow reads TIFF, for OpenCV refuses turned and float ones; OpenCV 16-bit colour."""
    import cv2
    from PIL import Image

    try:
        with Image.open(file) as image:
            image.seek(page)
            bits = getattr(image, "tag_v2", {}).get(258, (8,))
            if image.mode not in ("I;16", "I;16B", "I;16L", "I", "F") and max(bits) <= 8:
                return np.asarray(image.convert("RGB"))
            grey = np.asarray(image) if image.mode[0] in "IF" else None
    except Exception:  # Pillow's plugins raise anything on broken files
        return None
    if grey is None:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        data = np.fromfile(file, np.uint8)
        found, pages = cv2.imdecodemulti(data, flags, range=(page, page + 1))
        return cv2.cvtColor(pages[0], cv2.COLOR_BGR2RGB) if found and pages else None
    if np.issubdtype(grey.dtype, np.floating):
        grey = np.nan_to_num(grey)
        grey = grey * (SHADES - 1) if grey.max(initial=0) <= 1 else grey
    shades = grey.clip(0, SHADES - 1).astype(np.uint16)
    return np.repeat(shades[..., None], 3, axis=2)


def eight_bit(image: np.ndarray, levels: Levels | None) -> np.ndarray:
    """The image as uint8: 16 bits between `levels`, or divided by 256 where there are none."""
    if image.dtype == np.uint8:
        return image
    if levels is None:
        return (image >> 8).astype(np.uint8)
    low, high = levels
    table = (np.arange(SHADES) - low) * (255 / max(high - low, 1))
    return table.clip(0, 255).round().astype(np.uint8)[image]


def levels_of(info: Any) -> Levels | None:
    """The levels that a COCO file's `info.detkd` holds, if it was made of 16-bit images."""
    record = info.get("detkd") if isinstance(info, Mapping) else None
    said = record.get("sixteen_bit") if isinstance(record, Mapping) else None
    if not isinstance(said, Mapping):
        return None
    low, high = said.get("low"), said.get("high")
    if isinstance(low, int | float) and isinstance(high, int | float) and low < high:
        return float(low), float(high)
    return None
