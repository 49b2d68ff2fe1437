"""Train, val and test that share no sample, and hold each class in the asked proportion."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
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
    rows = _rows(table, column)
    short: dict[
        str, str
    ] = {}  # the same rows by name and by stem alone, for tables that name other folders
    for name, group in rows.items():
        path = PurePosixPath(name)
        short.setdefault(path.name, group)
        short.setdefault(path.stem, group)
    groups: dict[Any, str] = {}
    matched = 0
    for image in document["images"]:
        path = PurePosixPath(image["file_name"])
        keys = (str(path), path.name, path.stem)
        found = next((t[k] for t in (rows, short) for k in keys if k in t), None)
        matched += found is not None
        groups[image["id"]] = _group(image["id"], found)
    if not matched:
        raise DataError(f"{table}: names none of the images; is it the table of another data set?")
    return groups


def _rows(table: Path, column: str | None) -> dict[str, str]:
    """Group of each image that a CSV file names, with commas or semicolons."""
    try:
        with table.open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            stream.seek(0)
            delimiter = ";" if ";" in header and "," not in header else ","
            reader = csv.DictReader(stream, delimiter=delimiter)
            columns = [name.strip() for name in reader.fieldnames or []]
            reader.fieldnames = columns
            key = next((name for name in FILE_COLUMNS if name in columns), None)
            value = column or next((name for name in GROUP_COLUMNS if name in columns), None)
            if key is None or value is None or value not in columns:
                raise DataError(
                    f"{table}: needs a column of images ({', '.join(FILE_COLUMNS)}) and one of "
                    f"groups ({', '.join(GROUP_COLUMNS)}, or --group-column); "
                    f"it has {', '.join(columns)}."
                )
            rows: dict[str, str] = {}
            for row in reader:
                image = (row[key] or "").strip().replace("\\", "/")
                group = (row[value] or "").strip()
                if rows.setdefault(image, group) != group:
                    raise DataError(
                        f"{table}: puts '{image}' into two groups, '{rows[image]}' and '{group}'; "
                        "an image is in one."
                    )
            return rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error}).") from error


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

    After Sechidis et al. (2011), carried over from labels to groups: the class with the fewest
    boxes left is served first, its largest group first, by the side that lacks most of it (of
    images, where two lack as much). The same seed gives the same division.

    Raises:
        DataError: fewer groups than sides, so that one would stay empty.
    """
    images_of: dict[str, list[Any]] = defaultdict(list)
    for image in document["images"]:
        images_of[groups[image["id"]]].append(image["id"])
    share = np.asarray(ratios, dtype=float) / sum(ratios)
    asked = np.flatnonzero(share)
    if len(images_of) < len(asked):
        raise DataError(
            f"--groups: {len(images_of)} groups cannot fill {len(asked)} sides; "
            "set a ratio to 0, or name smaller groups."
        )
    names = sorted(images_of)
    np.random.default_rng(seed).shuffle(names)
    content = _content(document, images_of, names)
    total = content.sum(axis=0)
    lacking = share[:, None] * total  # [side, class and images]
    remaining = total.copy()
    side_of: dict[str, int] = {}
    empty = set(asked.tolist())
    left = list(range(len(names)))
    while left:
        present = np.flatnonzero(remaining[:-1])
        column = present[remaining[present].argmin()] if present.size else len(total) - 1
        row = left.pop(int(content[left, column].argmax()))
        if not content[row, column]:
            column = len(total) - 1
        # The last groups go to sides that have none yet.
        open_sides = np.array(sorted(empty)) if len(left) + 1 == len(empty) else asked
        # Relative to what the side wants in all, so that a small side is served as well.
        need = lacking[open_sides, column] / (share[open_sides] * max(total[column], 1))
        tied = open_sides[np.isclose(need, need.max())]
        side = int(tied[(lacking[tied, -1] / share[tied]).argmax()])
        side_of[names[row]] = side
        empty.discard(side)
        lacking[side] -= content[row]
        remaining -= content[row]
    return {image: SIDES[side_of[name]] for name, members in images_of.items() for image in members}


def _content(
    document: Mapping[str, Any], images_of: Mapping[str, Sequence[Any]], names: Sequence[str]
) -> np.ndarray:
    """One row a group: its boxes of each class, then its images."""
    column = {category["id"]: at for at, category in enumerate(document["categories"])}
    row_of = {image: row for row, name in enumerate(names) for image in images_of[name]}
    content = np.zeros((len(names), len(column) + 1))
    for row in row_of.values():
        content[row, -1] += 1
    for box in document["annotations"]:
        content[row_of[box["image_id"]], column[box["category_id"]]] += 1
    return content


def part_of(document: Mapping[str, Any], chosen: set[Any], root: str) -> dict[str, Any]:
    """The COCO document of some of the images; ids are kept, `root` is its image root."""
    said = document.get("info")
    info = dict(said) if isinstance(said, dict) else {}
    record = info.get("detkd")
    info["detkd"] = {**(record if isinstance(record, dict) else {}), "image_root": root}
    return {
        **document,
        "info": info,
        "images": [image for image in document["images"] if image["id"] in chosen],
        "annotations": [box for box in document["annotations"] if box["image_id"] in chosen],
    }


def leaks(
    document: Mapping[str, Any], sides: Mapping[Any, str], root: Path
) -> list[tuple[str, str]]:
    """Pairs of images on two sides that are one file, or files of the same content."""
    seen: dict[str | bytes, Any] = {}
    names = {image["id"]: image["file_name"] for image in document["images"]}
    found = []
    for image, name in names.items():
        path = root / name
        content: str | bytes = name
        if path.is_file():
            content = hashlib.blake2b(path.read_bytes(), digest_size=16).digest()
        other = seen.setdefault(content, image)
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
