"""Train, val and test that share no sample, and hold each class in the asked proportion."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from detkd.data.group_table import groups_of_names
from detkd.data.similar import find_similar, joined
from detkd.errors import DataError
from detkd.pixels import page_of

SIDES = ("train", "val", "test")
CROWDS = 5  # classes of images by their number of boxes: none, and four of equal frequency
PASSES = 20  # over all groups, at most


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


def ungrouped(document: Mapping[str, Any]) -> dict[Any, str]:
    """Groups in which each image stands alone."""
    return {image["id"]: _group(image["id"], None) for image in document["images"]}


def groups_by_table(document: Mapping[str, Any], table: Path, column: str | None) -> dict[Any, str]:
    """Group of each image id after a CSV file (see `groups_of_names`); others stand alone.

    Raises:
        DataError: the table has no column of files or of groups, fits no image, or is ambiguous.
    """
    images = document["images"]
    groups = groups_of_names(table, [image["file_name"] for image in images], column)
    return {
        image["id"]: _group(image["id"], group) for image, group in zip(images, groups, strict=True)
    }


def groups_by_pattern(document: Mapping[str, Any], pattern: str) -> dict[Any, str]:
    """Group of each image id after a regular expression that is sought in its file name.

    Images that it does not match stand alone (see `groups_in_names`).

    Raises:
        DataError: no regular expression, or one that matches no name.
    """
    names = [image["file_name"] for image in document["images"]]
    found = groups_in_names(pattern, names, "--group-pattern")
    keys = [image["id"] for image in document["images"]]
    return {key: _group(key, group) for key, group in zip(keys, found, strict=True)}


def groups_in_names(pattern: str, names: Sequence[str], said: str) -> list[str | None]:
    """What a regular expression finds in each file name: what its brackets hold, or all it matches.

    None where it finds nothing; `said` is what gave the pattern, for the sentences.

    Raises:
        DataError: no regular expression, or one that finds nothing in any name.
    """
    without = "null" if said.startswith("data.") else "none"  # a key of a config, or a flag
    try:
        matches = [re.search(pattern, name) for name in names]
    except re.error as error:
        raise DataError(f"{said}: '{pattern}' is no regular expression ({error}).") from error
    found = [m and ("/".join(each or "" for each in m.groups()) or m[0] or None) for m in matches]
    if not any(found):
        first = names[0] if names else "no image at all"
        raise DataError(
            f"{said}: '{pattern}' matches none of the file names ({first}, ...); give another, or "
            f"{without} where each image stands alone."
        )
    return found


def groups_by_gap(
    numbers: Sequence[str | None], gap: float, names: Sequence[str], said: str
) -> list[str | None]:
    """Groups of images whose numbers follow each other: the next one at most `gap` further.

    `numbers` are what a pattern has found in `names`, such as the clock of a camera; None stays
    None. A group is called by its first number. Two images that are at most `gap` apart are never
    in two groups, wherever their numbers begin.

    Raises:
        DataError: what was found is no number.
    """
    values = {}
    for number, name in zip(numbers, names, strict=True):
        if number is not None:
            if not number.isdecimal():
                raise DataError(
                    f"{said} finds '{number}' in {name}, and a gap is between whole numbers; let "
                    "its brackets hold the digits alone, or leave the gap out."
                )
            values[number] = int(number)
    group_of: dict[str, str] = {}
    in_order = sorted(values, key=lambda number: values[number])
    for before, number in zip([None, *in_order], in_order, strict=False):
        apart = before is None or values[number] - values[before] > gap
        group_of[number] = number if apart or before is None else group_of[before]
    return [number and group_of[number] for number in numbers]


def with_similar(
    document: Mapping[str, Any], groups: Mapping[Any, str], root: Path
) -> dict[Any, str]:
    """The same groups, those joined that hold images which show the same thing."""
    name_of = {image["id"]: image["file_name"] for image in document["images"]}
    group_of = {name_of[key]: group for key, group in groups.items()}
    pairs = find_similar(root, list(group_of))
    top = joined(group_of.values(), [(group_of[one], group_of[other]) for one, other in pairs])
    size = Counter(top[group] for group in groups.values())
    # Images that stood alone and are joined stand alone no more.
    named = {t: t.replace(ALONE, "similar to image ") if size[t] > 1 else t for t in size}
    return {key: named[top[group]] for key, group in groups.items()}


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
    sides: Sequence[str] = SIDES,
    classes_alone: bool = False,
    said: str = "--groups",
) -> dict[Any, str]:
    """The side of each image id; a group is never divided.

    After Sechidis et al. (2011), carried over from labels to groups: what is rarest is served
    first (a class, or a class of images by their number of boxes), its largest group first, by
    the side that lacks most of it. Then groups move and change places as long as that brings the
    sides nearer to their shares. The same seed gives the same division.

    With `classes_alone` numbers of boxes and the moves at the end are left out, as in the first
    version, whose divisions come out again.

    Raises:
        DataError: fewer groups than sides, so that one would stay empty; `said` says where the
            groups are from.
    """
    images_of: dict[str, list[Any]] = defaultdict(list)
    for image in document["images"]:
        images_of[groups[image["id"]]].append(image["id"])
    share = np.asarray(ratios, dtype=float) / sum(ratios)
    asked = np.flatnonzero(share)
    if len(images_of) < len(asked):
        raise DataError(
            f"{said}: {len(images_of)} group{'s' * (len(images_of) != 1)} cannot fill "
            f"{len(asked)} sides; the nearest division has {len(images_of)}: set the ratio of the "
            "others to 0, ask for fewer folds, or name smaller groups."
        )
    names = sorted(images_of)
    np.random.default_rng(seed).shuffle(names)
    content = _content(document, images_of, names)
    if classes_alone:
        classes = len(document["categories"])
        side_of = _serve(content[:, [*range(classes), -1]], share, asked)
    else:
        side_of = _serve(content, share, asked)
        _improve(content, share, asked, side_of)
    return {
        image: sides[side_of[row]] for row, name in enumerate(names) for image in images_of[name]
    }


def _serve(content: np.ndarray, share: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """The side of each group, the rarest column first."""
    total = content.sum(axis=0)
    lacking = share[:, None] * total  # [side, column]
    remaining = total.copy()
    side_of = np.zeros(len(content), dtype=int)
    empty = set(asked.tolist())
    left = list(range(len(content)))
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
        side_of[row] = side
        empty.discard(side)
        lacking[side] -= content[row]
        remaining -= content[row]
    return side_of


def _improve(
    content: np.ndarray, share: np.ndarray, asked: np.ndarray, side_of: np.ndarray
) -> None:
    """Move groups, one at a time, while that brings the sides nearer to what they want."""
    total = content.sum(axis=0)
    weight = content / np.maximum(total, 1)  # [group, column], as shares of the whole
    weight[:, -1] *= len(total)  # images count as much as all classes together
    want = share[:, None] * weight.sum(axis=0)
    held = np.stack([weight[side_of == side].sum(axis=0) for side in range(len(share))])
    off = held - want
    groups_of = np.bincount(side_of, minlength=len(share))
    scale = 1 / np.maximum(share, 1e-9)  # a small side is off by much sooner
    for _ in range(PASSES):
        moved = False
        for row in range(len(content)):
            here = side_of[row]
            if groups_of[here] == 1:
                continue
            before = (off[asked] ** 2).sum(axis=1) * scale[asked]
            with_row = ((off[asked] + weight[row]) ** 2).sum(axis=1) * scale[asked]
            without = ((off[here] - weight[row]) ** 2).sum() * scale[here]
            gain = (off[here] ** 2).sum() * scale[here] - without - (with_row - before)
            gain[asked == here] = 0
            best = int(gain.argmax())
            if gain[best] > 1e-9:
                there = int(asked[best])
                off[here] -= weight[row]
                off[there] += weight[row]
                groups_of[here] -= 1
                groups_of[there] += 1
                side_of[row] = there
                moved = True
        if not moved:
            return


def _content(
    document: Mapping[str, Any], images_of: Mapping[str, Sequence[Any]], names: Sequence[str]
) -> np.ndarray:
    """One row a group: boxes of each class, images of each class of numbers of boxes, images."""
    column = {category["id"]: at for at, category in enumerate(document["categories"])}
    row_of = {image: row for row, name in enumerate(names) for image in images_of[name]}
    boxes: dict[Any, int] = dict.fromkeys(row_of, 0)
    content = np.zeros((len(names), len(column) + CROWDS + 1))
    for box in document["annotations"]:
        content[row_of[box["image_id"]], column[box["category_id"]]] += 1
        boxes[box["image_id"]] += 1
    counts = np.array(list(boxes.values()))
    edges = (
        np.quantile(counts[counts > 0], np.arange(1, CROWDS - 1) / (CROWDS - 1))
        if counts.any()
        else []
    )
    for image, count in boxes.items():
        crowd = 1 + int(np.searchsorted(edges, count, side="left")) if count else 0
        content[row_of[image], len(column) + crowd] += 1
        content[row_of[image], -1] += 1
    return content


def part_of(
    document: Mapping[str, Any],
    chosen: set[Any],
    root: str,
    side: str,
    groups: Mapping[Any, str],
) -> dict[str, Any]:
    """The COCO document of some of the images; ids are kept, `root` is its image root.

    Its record says which side it is, so that no threshold is chosen on a test split. An image
    without a `sample` gets its group as such: what is split by it is also judged by it.
    """
    info = document.get("info")
    info = dict(info) if isinstance(info, dict) else {}
    record = info.get("detkd")
    said = record if isinstance(record, dict) else {}
    info["detkd"] = {**said, "image_root": root, "split": side}
    return {
        **document,
        "info": info,
        "images": [
            _with_sample(image, groups[image["id"]])
            for image in document["images"]
            if image["id"] in chosen
        ],
        "annotations": [box for box in document["annotations"] if box["image_id"] in chosen],
    }


def _with_sample(image: dict[str, Any], group: str) -> dict[str, Any]:
    known = image.get("sample") not in (None, "")
    return image if known or group.startswith(ALONE) else {**image, "sample": group}


def report_of(
    document: Mapping[str, Any],
    sides: Mapping[Any, str],
    groups: Mapping[Any, str],
    asked: Mapping[str, float],
) -> dict[str, Any]:
    """What each side holds: images, groups, boxes in all and of each class; asked and reached."""
    names = {category["id"]: category["name"] for category in document["categories"]}
    held: dict[str, dict[str, Any]] = {}
    for side, share in asked.items():
        mine = [image for image, where in sides.items() if where == side]
        held[side] = {
            "asked": share / sum(asked.values()),
            "reached": len(mine) / max(1, len(sides)),
            "images": len(mine),
            "groups": len({groups[image] for image in mine}),
            "boxes": 0,
            "classes": dict.fromkeys(names.values(), 0),
        }
    for box in document["annotations"]:
        row = held[sides[box["image_id"]]]
        row["boxes"] += 1
        row["classes"][names[box["category_id"]]] += 1
    return held


def undivided(
    groups: Mapping[Any, str], held: Mapping[str, Mapping[str, Any]], slack: float = 0.05
) -> str | None:
    """The sentence about groups that do not let the sides be as they were asked for, if any."""
    if all(abs(row["asked"] - row["reached"]) <= slack for row in held.values()):
        return None
    sizes: dict[str, int] = defaultdict(int)
    for group in groups.values():
        sizes[group] += 1
    largest = max(sizes, key=lambda group: sizes[group])
    shares = [
        " / ".join(f"{100 * row[key]:.0f}" for row in held.values()) for key in ("asked", "reached")
    ]
    return (
        f"asked for {shares[0]} % of the images, and {shares[1]} % is the nearest that the groups "
        f"allow; the largest, '{largest.replace(ALONE, 'image ')}', holds "
        f"{100 * sizes[largest] / len(groups):.0f} %"
    )


def similar_leaks(
    document: Mapping[str, Any], sides: Mapping[Any, str], root: Path
) -> list[tuple[str, str]]:
    """Pairs of images on two sides that show the same thing, turned or mirrored or not."""
    side_of = {image["file_name"]: sides[image["id"]] for image in document["images"]}
    pairs = find_similar(root, list(side_of))
    return [(one, other) for one, other in pairs if side_of[one] != side_of[other]]


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
        if path.is_file() and page_of(path)[0] == path:
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
