"""Image files of a tree: found without following links out of it, measured by their headers."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from detkd.data.headers import (
    END_MARKERS,
    TAIL,
    TURNED,
    Measured,
    cut_off,
    measure_plain,
)
from detkd.pixels import HIGH, LOW, PAGE, PAGE_MARK, RULE, SHADES, page_of, read_pixels

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")
ORIENTATION = 0x0112


SUFFIXES_OF = {  # Pillow's names of formats, and the suffixes that promise them
    "JPEG": (".jpg", ".jpeg"),
    "MPO": (".jpg", ".jpeg"),
    "PNG": (".png",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
}
MOST_DEEP = 1000  # 16-bit images that the percentiles of a data set are taken of


class ImageError(Exception):
    """An image that cannot be measured; the message says why."""


# Of each root, its folders (as `names_below` begins a name) with blocks of names joined by "/",
# for a list of strings would take six times the memory; and with the links that are passed over.
Listing = list[tuple[str, list[str], list[str]]]
_REMEMBERED: ContextVar[dict[Path, Listing] | None] = ContextVar("listings", default=None)
BLOCK = 1000  # names


@contextmanager
def remembering_files() -> Iterator[None]:
    """Within, the files of a tree are listed once: several readers look at the same tree."""
    token = _REMEMBERED.set({})
    try:
        yield
    finally:
        _REMEMBERED.reset(token)


def files_below(root: Path, *suffixes: str) -> Iterator[Path]:
    """Files below `root` in the order of their names; links to folders are not followed.

    With `suffixes` (in lower case) only the files that end in one of them.
    """
    return (root / name for name in names_below(root, *suffixes))


def names_below(root: Path, *suffixes: str) -> Iterator[str]:
    """The same files as names (POSIX, relative to the root): these cost little, paths do not."""
    for folder, blocks, _ in _listing(root):
        for block in blocks:
            for name in block.split("/"):
                if not suffixes or name.lower().endswith(suffixes):
                    yield folder + name


def _listing(root: Path) -> Listing:
    known = _REMEMBERED.get()
    if known is not None and root in known:
        return known[root]
    listing = list(_walk(root))
    if known is not None:
        known[root] = listing
    return listing


def links_out(root: Path) -> Iterator[Path]:
    """Links that `files_below` passes over: to folders, out of the root, or to nothing."""
    for folder, _, links in _listing(root):
        for name in links:
            yield root / folder / name


def _walk(root: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder with its files and the links that are not followed, in the order of names.

    A folder is told as the names in it begin: nothing for the root, `a/b/` for one below.
    """
    waiting = [""]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        files: list[str] = []
        links: list[str] = []
        try:
            entries = os.scandir(root / folder)
        except OSError:  # a folder that cannot be opened holds nothing for us
            continue
        with entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_symlink():
                    (files if is_inside(Path(entry.path), root) else links).append(entry.name)
                elif entry.is_dir():
                    folders.append(entry.name)
                elif entry.is_file():
                    files.append(entry.name)
        files.sort()
        blocks = ["/".join(files[at : at + BLOCK]) for at in range(0, len(files), BLOCK)]
        yield folder, blocks, sorted(links)
        waiting += [f"{folder}{name}/" for name in sorted(folders, reverse=True)]


def images_below(root: Path) -> list[Path]:
    """The images of a tree; the pages of a TIFF of several are images `stack.tif#page=1`, ..."""
    return [root / name for name in image_names(root)]


def image_names(root: Path) -> Iterator[str]:
    """The names of the same images, as `names_below` has them."""
    for name in names_below(root, *SUFFIXES):
        stack = name.lower().endswith((".tif", ".tiff"))
        if stack and (pages := count_pages(root / name)) > 1:
            yield from (f"{name}#page={page}" for page in range(1, pages + 1))
        else:
            yield name


def leaves_root(name: PurePosixPath) -> bool:
    """Whether a file of this name would not lie below the folder that it is said to lie in."""
    return name.is_absolute() or ".." in name.parts


def count_pages(path: Path) -> int:
    """How many images a TIFF holds; 1 for one that cannot be read."""
    try:
        with Image.open(path) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # Pillow's plugins raise anything on broken headers
        return 1


def stem_of(path: Path | str) -> str:
    """What an annotation of this image is called: a.jpg: a; stack.tif#page=2: stack#page=2."""
    name = path.rpartition("/")[2] if isinstance(path, str) else path.name
    stem, dot, end = name.rpartition(".")
    if not (stem and dot and end):  # as pathlib has it: .jpg and a. have no suffix
        return name
    match = PAGE.fullmatch(name) if PAGE_MARK in name else None
    return stem if match is None else f"{stem}#page={match['page']}"


def measure(path: Path | str, *, decode: bool = False) -> Measured:
    """The size of the displayed image and what else its header says.

    With `decode` all its pixels are read as well.

    Raises:
        ImageError: not an image, one that would fill the memory, or one that breaks off.
    """
    name = str(path)
    plain = None if decode or PAGE_MARK in name else measure_plain(name)
    if plain is not None:
        return plain
    file, page = page_of(Path(path))
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
        warning = cut_off(_tail(file), kind)
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
    return levels_among(images_below(root))


def levels_among(paths: Iterable[Path]) -> dict[str, Any] | None:
    """The same of these images."""
    deep: list[Path] = []
    for path in paths:
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


def _tail(path: Path, size: int = TAIL) -> bytes:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - size))
        return stream.read()


def is_inside(path: Path, root: Path) -> bool:
    """Whether a link leads to a regular file inside the root."""
    try:
        return path.resolve().is_relative_to(root.resolve()) and path.is_file()
    except (OSError, RuntimeError):  # a loop of links
        return False
