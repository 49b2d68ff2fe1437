"""Image files of a tree: found without following links out of it, measured by their headers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from detkd.pixels import HIGH, LOW, PAGE, RULE, SHADES, page_of, read_pixels

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
ORIENTATION = 0x0112
TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
LAST_PART = {"JPEG": b"\xff\xda", "PNG": b"IDAT"}  # what the pixels of each begin with


SUFFIXES_OF = {  # Pillow's names of formats, and the suffixes that promise them
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
MOST_DEEP = 1000  # 16-bit images that the percentiles of a data set are taken of


@dataclass(frozen=True)
class Measured:
    """What the header of an image says.

    `width` and `height` are of the displayed frame, `stored` is the size before it is turned;
    `deep` are images of 16 bits and more. `warning` says that its end is missing.
    """

    width: int
    height: int
    stored: tuple[int, int]
    orientation: int
    format: str
    deep: bool
    warning: str | None


class ImageError(Exception):
    """An image that cannot be measured; the message says why."""


def files_below(root: Path) -> Iterator[Path]:
    """Files below `root` in the order of their names; links to folders are not followed."""
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if not name.startswith(".") and _inside(path, root):
                yield path


def links_out(root: Path) -> Iterator[Path]:
    """Links that `files_below` passes over: to folders, out of the root, or to nothing."""
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(names)]:
            path = Path(folder) / name
            if path.is_symlink() and not name.startswith(".") and not _inside(path, root):
                yield path


def images_below(root: Path) -> list[Path]:
    """The images of a tree; the pages of a TIFF of several are images `stack.tif#page=1`, ..."""
    found: list[Path] = []
    for path in files_below(root):
        suffix = path.suffix.lower()
        if suffix in (".tif", ".tiff") and (pages := count_pages(path)) > 1:
            found += [path.with_name(f"{path.name}#page={page}") for page in range(1, pages + 1)]
        elif suffix in SUFFIXES:
            found.append(path)
    return found


def count_pages(path: Path) -> int:
    """How many images a TIFF holds; 1 for one that cannot be read."""
    try:
        with Image.open(path) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # Pillow's plugins raise anything on broken headers
        return 1


def stem_of(path: Path) -> str:
    """What an annotation of this image is called: a.jpg: a; stack.tif#page=2: stack#page=2."""
    match = PAGE.fullmatch(path.name)
    return path.stem if match is None else f"{path.stem}#page={match['page']}"


def measure(path: Path, *, decode: bool = False) -> Measured:
    """The size of the displayed image and what else its header says.

    With `decode` all its pixels are read as well.

    Raises:
        ImageError: not an image, one that would fill the memory, or one that breaks off.
    """
    file, page = page_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file) as image:
                if page:
                    image.seek(page)
                kind = image.format or ""
                stored = image.size
                deep = _is_deep(image, file)
                orientation = _orientation(image)
                if decode:
                    _decode(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError("is so large that decoding it could fill the memory") from error
    except UnidentifiedImageError as error:
        raise ImageError("is not an image") from error
    except ImageError:
        raise
    except Exception as error:  # Pillow's plugins raise anything on broken headers
        raise ImageError(f"cannot be read as an image ({type(error).__name__})") from error
    turned = orientation in TURNED
    if kind == "TIFF" and turned:
        stored = stored[1], stored[0]  # of TIFF, Pillow tells the displayed size
    width, height = (stored[1], stored[0]) if turned else stored
    warning = None
    if kind in END_MARKERS:
        tail = _tail(file)
        # It has to come after the pixels: a thumbnail in the header has an end of its own.
        if tail.rfind(END_MARKERS[kind]) <= tail.rfind(LAST_PART[kind]):
            warning = "has no end marker: it is probably cut off"
    return Measured(width, height, stored, orientation, kind, deep, warning)


def _decode(image: Image.Image) -> None:
    try:
        image.load()
    except Exception as error:  # as above
        raise ImageError(f"cannot be decoded to its end ({error})") from error


def _is_deep(image: Image.Image, file: Path) -> bool:
    if image.mode.startswith(("I", "F")):
        return True
    if image.format == "TIFF":
        return max(getattr(image, "tag_v2", {}).get(258, (8,))) > 8
    if image.format == "PNG" and image.mode in ("RGB", "RGBA", "LA"):
        with file.open("rb") as stream:
            return stream.read(25)[24:] == b"\x10"
    return False


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ORIENTATION) or 1)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return 1


def levels_below(root: Path) -> dict[str, Any] | None:
    """What 16 bits become in a tree, for the record of a conversion; None without such images.

    Of the whole tree, not of a subset: training and validation have to be mapped alike.
    """
    deep: list[Path] = []
    for path in images_below(root):
        try:
            if measure(path).deep:
                deep.append(path)
        except (ImageError, OSError):
            continue
    counts = np.zeros(SHADES, dtype=np.int64)
    taken = deep[:: max(1, -(-len(deep) // MOST_DEEP))]
    for path in taken:
        pixels = read_pixels(path)
        if pixels is not None and pixels.dtype == np.uint16:
            counts += np.bincount(pixels[..., ::2].ravel(), minlength=SHADES)
    total = counts.cumsum()
    if not total[-1]:
        return None
    low, high = (int(np.searchsorted(total, total[-1] * p / 100)) for p in (LOW, HIGH))
    return {"low": low, "high": max(high, low + 1), "images": len(taken), "rule": RULE}


def _tail(path: Path, size: int = 4096) -> bytes:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read()


def _inside(path: Path, root: Path) -> bool:
    """Whether a file, links resolved, is a regular one inside the root."""
    try:
        if not path.is_symlink():
            return path.is_file()
        return path.resolve().is_relative_to(root.resolve()) and path.is_file()
    except (OSError, RuntimeError):  # a loop of links
        return False
