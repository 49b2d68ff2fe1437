"""Images that show the same thing: one file twice, or one turned, mirrored, scaled, saved anew.

Thumbnails of 16 by 16 grey cells are correlated under the eight turns and mirror images; what
agrees is compared once more at 48 by 48. Brightness and contrast play no part.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from detkd.pixels import page_of, read_pixels

FINE, COARSE = 48, 16  # cells a side
ALIKE, CONFIRMED = 0.95, 0.8  # least correlation of coarse and of fine thumbnails
FLAT = 0.5  # grey levels of spread below which a thumbnail shows nothing to compare
MOST = 30_000  # images above which the search (quadratic) is left to the owner's groups
BLOCK = 1024


def thumbnail(path: Path) -> np.ndarray | None:
    """Grey levels [48, 48] of an image, uint8; None if it cannot be decoded."""
    file, _ = page_of(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            if file == path:
                with Image.open(path) as image:
                    if not image.mode.startswith(("I", "F")):
                        image.draft("L", (2 * FINE, 2 * FINE))
                        small = image.convert("L").resize((FINE, FINE), Image.Resampling.BOX)
                        return np.asarray(small, np.uint8)
            pixels = read_pixels(path)
    except Exception:  # Pillow's plugins raise anything on broken files
        return None
    return None if pixels is None else _shrink_deep(pixels)


def _shrink_deep(pixels: np.ndarray) -> np.ndarray:
    grey = pixels.mean(axis=2)
    low, high = np.percentile(grey, (0.5, 99.5))
    stretched = ((grey - low) * (255 / max(high - low, 1e-6))).clip(0, 255).astype(np.uint8)
    small = Image.fromarray(stretched).resize((FINE, FINE), Image.Resampling.BOX)
    return np.asarray(small, np.uint8)


def similar_pairs(thumbnails: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    """Pairs (first < second) of thumbnails that show the same under one of the eight turns."""
    if len(thumbnails) < 2:
        return
    fine = np.stack(thumbnails).astype(np.float32)
    count, cells = len(fine), FINE // COARSE
    coarse = fine.reshape(count, COARSE, cells, COARSE, cells).mean((2, 4))
    shown = coarse.std(axis=(1, 2)) >= FLAT
    anchor = _unit(coarse)
    for begin in range(0, count, BLOCK):
        block = coarse[begin : begin + BLOCK]
        best = np.full((len(block), count), -1, np.float32)
        for turned in _turns(block):
            np.maximum(best, _unit(turned) @ anchor.T, out=best)
        rows, columns = np.nonzero(best >= ALIKE)
        for row, second in zip(rows.tolist(), columns.tolist(), strict=True):
            first = begin + row
            seen = first < second and shown[first] and shown[second]
            if seen and _confirmed(fine[first], fine[second]):
                yield first, second


def _confirmed(one: np.ndarray, other: np.ndarray) -> bool:
    target = _unit(other[None])[0]
    return any(float(_unit(turned)[0] @ target) >= CONFIRMED for turned in _turns(one[None]))


def _turns(images: np.ndarray) -> Iterator[np.ndarray]:
    for mirrored in (images, images[:, :, ::-1]):
        for quarter in range(4):
            yield np.rot90(mirrored, quarter, (1, 2))


def _unit(images: np.ndarray) -> np.ndarray:
    """Rows of mean zero and length one."""
    flat = images.reshape(len(images), -1)
    flat = flat - flat.mean(axis=1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)


def find_similar(root: Path, names: Sequence[str]) -> list[tuple[str, str]]:
    """Pairs of the named images that show the same thing; those that cannot be read have none."""
    found = [(name, thumbnail(root / name)) for name in names]
    known = [(name, small) for name, small in found if small is not None]
    pairs = similar_pairs([small for _, small in known])
    return [(known[first][0], known[second][0]) for first, second in pairs]


def same_content(root: Path, names: Collection[str]) -> list[list[str]]:
    """Groups of the named images whose files are equal byte by byte; pages are left out."""
    of_content: dict[bytes, list[str]] = defaultdict(list)
    for name in names if len(names) > 1 else ():
        try:
            content = (root / name).read_bytes()
        except OSError:  # a page of a stack
            continue
        of_content[hashlib.blake2b(content, digest_size=16).digest()].append(name)
    return [members for members in of_content.values() if len(members) > 1]


def joined(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> Mapping[str, str]:
    """The group of each name when pairs belong together: called by its first member."""
    parent = {name: name for name in names}

    def top(name: str) -> str:
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for one, other in pairs:
        first, second = sorted((top(one), top(other)))
        parent[second] = first
    return {name: top(name) for name in parent}
