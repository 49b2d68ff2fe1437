"""What a tree says of training, validation and test: lists and folders, and what is wrong there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from detkd.data import yolo_subsets
from detkd.data.formats import voc
from detkd.data.images import stem_of
from detkd.data.pairing import Images
from detkd.data.records import DROPPED_IMAGE, KEPT, ImageRecord, Problem, relative
from detkd.data.similar import MOST, find_similar

OF_ONE_CLASS = re.compile(r".+_(train|val|trainval|test)")  # VOC's lists of one class
# Folders and lists that mean a side; trainval and the like hold images of two by intention.
SIDES = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}


def sides_of(
    root: Path,
    source_format: str,
    images: Iterable[ImageRecord],
    folders: Iterable[str],
    problems: list[Problem],
) -> dict[str, str]:
    """The side of each image that a list or a folder puts on one; faults of the lists are told.

    `folders` are those that the images lie in.
    """
    listed: dict[str, list[str]] = {}
    if source_format == "voc":
        listed = _of_voc(root, images, problems)
    elif source_format == "yolo":
        listed = _of_yolo(root, problems)
    for name, sides in listed.items():
        if len(set(sides)) > 1:
            message = f"is in the lists of {' and '.join(sorted(set(sides)))}"
            problems.append(Problem("image in two lists", name, "", message, KEPT))
    found = {name: sides[0] for name, sides in listed.items()}
    of_folder = {folder: side for folder in folders if (side := _of_folder(folder)) is not None}
    for image in images if of_folder else ():
        side = of_folder.get(image.file.rpartition("/")[0])
        if side is not None:
            found.setdefault(image.file, side)
    return found


def _of_folder(folder: str) -> str | None:
    parts = (part.lower() for part in folder.split("/"))
    return next((SIDES[part] for part in parts if part in SIDES), None)


def _of_voc(
    root: Path, images: Iterable[ImageRecord], problems: list[Problem]
) -> dict[str, list[str]]:
    lists = voc.list_files(root)
    by_stem: dict[str, str] = {}
    for image in images if lists else ():
        by_stem.setdefault(stem_of(image.file), image.file)
    listed: dict[str, list[str]] = {}
    missing: set[str] = set()
    for path in lists:
        if OF_ONE_CLASS.fullmatch(path.stem):
            continue
        file, side = relative(path, root), SIDES.get(path.stem)
        seen: set[str] = set()
        for at, line in enumerate(yolo_subsets.lines_of(path), start=1):
            stem = voc.listed(line, by_stem.keys())
            name = by_stem.get(stem, "")
            if not name and stem in missing:
                continue  # trainval says again what train has said
            if not name:
                missing.add(stem)
                message = f"lists '{stem[:80]}', which has no image or no annotation"
                problems.append(
                    Problem("listed but missing", file, f"line {at}", message, DROPPED_IMAGE)
                )
            elif name in seen:
                message = f"lists '{stem[:80]}' twice"
                problems.append(Problem("listed twice", file, f"line {at}", message, KEPT))
            elif side is not None:
                listed.setdefault(name, []).append(side)
            seen.add(name or line)
    return listed


def _of_yolo(root: Path, problems: list[Problem]) -> dict[str, list[str]]:
    images = Images(root)
    listed: dict[str, list[str]] = {}
    done: set[Path] = set()
    for key, (bases, value) in yolo_subsets.listed_subsets(root).items():
        for path in yolo_subsets.list_files(root, bases, value):
            if path in done or key not in SIDES:
                continue
            done.add(path)
            for at, line in enumerate(yolo_subsets.lines_of(path), start=1):
                image = images.named(line, path.parent)
                if image is None:
                    message = f"lists '{line[:80]}', which is not in the tree"
                    problems.append(
                        Problem(
                            "listed but missing",
                            relative(path, root),
                            f"line {at}",
                            message,
                            DROPPED_IMAGE,
                        )
                    )
                else:
                    listed.setdefault(relative(image, root), []).append(SIDES[key])
    return listed


def leaks_between(root: Path, side_of: Mapping[str, str]) -> list[Problem]:
    """Images on two sides that show the same thing, turned or mirrored or not."""
    if len(set(side_of.values())) < 2:
        return []
    names = sorted(side_of)
    if len(names) > MOST:
        message = f"{len(names)} images are too many to be compared by pairs; split by groups"
        return [Problem("not compared", None, "", message, KEPT, note=True)]
    return [
        Problem(
            "similar images on two sides",
            second,
            "",
            f"({side_of[second]}) shows the same as {first} ({side_of[first]})",
            KEPT,
            other=first,
        )
        for first, second in find_similar(root, names)
        if side_of[first] != side_of[second]
    ]
