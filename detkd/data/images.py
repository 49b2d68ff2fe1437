"""Image files of a tree: found without following links out of it, measured by their headers."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
ORIENTATION = 0x0112
TURNED = {5, 6, 7, 8}  # EXIF orientations that swap width and height
END_MARKERS = {"JPEG": b"\xff\xd9", "PNG": b"IEND\xaeB`\x82"}
LAST_PART = {"JPEG": b"\xff\xda", "PNG": b"IDAT"}  # what the pixels of each begin with


PAGE = re.compile(r"(?P<file>.+\.tiff?)#page=(?P<page>[1-9]\d{0,5})", re.IGNORECASE)


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


def page_of(path: Path) -> tuple[Path, int]:
    """The file that holds an image, and the image's page in it, from 0."""
    match = PAGE.fullmatch(path.name)
    if match is None or path.exists():
        return path, 0
    return path.with_name(match["file"]), int(match["page"]) - 1


def stem_of(path: Path) -> str:
    """What an annotation of this image is called: a.jpg: a; stack.tif#page=2: stack#page=2."""
    match = PAGE.fullmatch(path.name)
    return path.stem if match is None else f"{path.stem}#page={match['page']}"


def measure(path: Path) -> tuple[int, int, str | None]:
    """(width, height) of the displayed image, and a warning if its end is missing.

    Raises:
        ImageError: not an image, or one so large that it would fill the memory.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                kind = image.format or ""
                width, height = image.size
                if _orientation(image) in TURNED:
                    width, height = height, width
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError("is so large that decoding it could fill the memory") from error
    except UnidentifiedImageError as error:
        raise ImageError("is not an image") from error
    except Exception as error:  # Pillow's plugins raise anything on broken headers
        raise ImageError(f"cannot be read as an image ({type(error).__name__})") from error
    if kind in END_MARKERS:
        tail = _tail(path)
        # It has to come after the pixels: a thumbnail in the header has an end of its own.
        if tail.rfind(END_MARKERS[kind]) <= tail.rfind(LAST_PART[kind]):
            return width, height, "has no end marker: it is probably cut off"
    return width, height, None


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(ORIENTATION)
    except Exception:  # a broken EXIF block says nothing about the pixels
        return None


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
