"""Train, val and test that share no sample, and hold each class in the asked proportion."""

from __future__ import annotations

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detkd.errors import DataError

SIDES = ("train", "val", "test")
FILE_COLUMNS = ("file", "image", "image_id", "file_name")
GROUP_COLUMNS = ("group", "group_id", "sample")


def groups_by_field(document: Mapping[str, Any], field: str) -> dict[Any, str]:
    """Group of each image id after a field of `images`; images without it stand alone.

    Raises:
        DataError: no image has the field.
    """
    groups = {image["id"]: image.get(field) for image in document["images"]}
    if all(group is None for group in groups.values()):
        raise DataError(
            f"--groups: no image has the field '{field}'; name a CSV file or another field."
        )
    return {key: _group(key, group) for key, group in groups.items()}


def groups_by_table(document: Mapping[str, Any], table: Path, column: str | None) -> dict[Any, str]:
    """Group of each image id after a CSV file; rows are matched by file name, path or stem.

    Raises:
        DataError: the table has no column of files or of groups, or fits no image.
    """
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            reader = csv.DictReader(stream)
            columns = reader.fieldnames or []
            key = next((name for name in FILE_COLUMNS if name in columns), None)
            value = column or next((name for name in GROUP_COLUMNS if name in columns), None)
            if key is None or value is None or value not in columns:
                raise DataError(
                    f"{table}: needs a column of images ({', '.join(FILE_COLUMNS)}) and one of "
                    f"groups ({', '.join(GROUP_COLUMNS)}, or --group-column); "
                    f"it has {', '.join(columns)}."
                )
            rows = {row[key]: row[value] for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error}).") from error
    groups: dict[Any, str] = {}
    matched = 0
    for image in document["images"]:
        name = PurePosixPath(image["file_name"])
        found = next((rows[k] for k in (str(name), name.name, name.stem) if k in rows), None)
        matched += found is not None
        groups[image["id"]] = _group(image["id"], found)
    if not matched:
        raise DataError(f"{table}: names none of the images; is it the table of another data set?")
    return groups


def alone(groups: Mapping[Any, str]) -> int:
    """How many images were in no group, and so became one of their own."""
    return sum(group.startswith(ALONE) for group in groups.values())


ALONE = "\0image "


def _group(image: Any, group: Any) -> str:
    return f"{ALONE}{image}" if group in (None, "") else str(group)


def divide(
    document: Mapping[str, Any],
    groups: Mapping[Any, str],
    ratios: Sequence[float],
    *,
    seed: int = 0,
) -> dict[Any, str]:
    """The side of each image id; a group is never divided.

    After Sechidis et al. (2011), carried over from labels to groups: the group with the rarest
    class goes first, to the side that lacks most of it, then of images. The same seed gives the
    same division.
    """
    images_of: dict[str, list[Any]] = defaultdict(list)
    for image in document["images"]:
        images_of[groups[image["id"]]].append(image["id"])
    boxes = Counter((box["image_id"], box["category_id"]) for box in document["annotations"])
    categories = [category["id"] for category in document["categories"]]
    names = sorted(images_of)
    random = np.random.default_rng(seed)
    random.shuffle(names)
    # One row a group: boxes of each class, then images.
    content = np.array(
        [
            [sum(boxes[i, c] for i in images_of[name]) for c in categories] + [len(images_of[name])]
            for name in names
        ],
        dtype=float,
    )
    share = np.asarray(ratios, dtype=float) / sum(ratios)
    wanted = share[:, None] * content.sum(axis=0)  # [side, class and images]
    side_of: dict[str, int] = {}
    left = list(range(len(names)))
    while left:
        remaining = content[left].sum(axis=0)
        present = np.flatnonzero(remaining[:-1])
        if present.size:
            rarest = present[remaining[present].argmin()]
            row = max(left, key=lambda at: content[at, rarest])
        else:
            rarest, row = len(categories), max(left, key=lambda at: content[at, -1])
        # Relative to what the side wants in all, so that a small side is served as well.
        need = wanted[:, rarest] / np.maximum(share * content[:, rarest].sum(), 1e-9)
        need = np.where(share > 0, need, -np.inf)
        tied = np.flatnonzero(np.isclose(need, need.max()))
        side = tied[(wanted[tied, -1] / share[tied]).argmax()]
        side_of[names[row]] = int(side)
        wanted[side] -= content[row]
        left.remove(row)
    return {image: SIDES[side_of[name]] for name, members in images_of.items() for image in members}


def part_of(document: Mapping[str, Any], chosen: set[Any], root: str) -> dict[str, Any]:
    """The COCO document of some of the images; ids are kept, `root` is its image root."""
    info = dict(document.get("info") or {})
    info["detkd"] = {**info.get("detkd", {}), "image_root": root}
    return {
        **document,
        "info": info,
        "images": [image for image in document["images"] if image["id"] in chosen],
        "annotations": [box for box in document["annotations"] if box["image_id"] in chosen],
    }


def leaks(
    document: Mapping[str, Any], sides: Mapping[Any, str], root: Path
) -> list[tuple[str, str]]:
    """Pairs of images with the same content on two sides."""
    seen: dict[bytes, Any] = {}
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found = []
    for image, name in names.items():
        path = root / name
        if not path.is_file():
            continue
        digest = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        other = seen.setdefault(digest, image)
        if sides[other] != sides[image]:
            found.append((names[other], name))
    return found


def thin_classes(
    document: Mapping[str, Any], groups: Mapping[Any, str], sides: int
) -> dict[str, int]:
    """Classes in fewer groups than there are sides: one side at least cannot judge them."""
    of_class = defaultdict(set)
    for box in document["annotations"]:
        of_class[box["category_id"]].add(groups[box["image_id"]])
    return {
        category["name"]: len(of_class[category["id"]])
        for category in document["categories"]
        if len(of_class[category["id"]]) < sides
    }
