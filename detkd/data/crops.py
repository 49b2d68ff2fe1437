"""Crops of the objects of a COCO data set, as images with one label each."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import cv2
import numpy as np

from detkd.errors import DataError
from detkd.files import new_folder
from detkd.pixels import eight_bit, levels_of, page_of, read_pixels

BACKGROUND, UNKNOWN = "background", "unknown"
TRIES = 50  # places that are looked at for a crop without objects
LONGEST = 200  # bytes of a name; file systems take 255
COLUMNS = ("file", "label", "group", "image", "xmin", "ymin", "xmax", "ymax")


@dataclass(frozen=True)
class CropRule:
    """How crops are cut.

    Args:
        margin: share of a box's sides that is added on each side.
        background: crops without an object for each image, sized as its objects are.
        unknown: classes that become the one class `unknown`.
        smallest: shorter side in px of a box below which it is left out.
        seed: of the places of background.
    """

    margin: float = 0.1
    background: int = 0
    unknown: Sequence[str] = ()
    smallest: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class Crop:
    """A crop to be cut: the class, and the box xyxy in whole px of the image."""

    label: str
    box: tuple[int, int, int, int]


@dataclass
class Told:
    """What was cut, and what was not."""

    written: dict[str, int] = field(default_factory=dict)
    small: int = 0
    asked: int = 0  # places without an object, and
    crowded: int = 0  # those of them for which there was no room
    unreadable: list[str] = field(default_factory=list)


def write_crops(document: Mapping[str, Any], root: Path, out: Path, rule: CropRule) -> Told:
    """Cut the crops into `out`/CLASS/, with a table `out`/crops.csv of file, label and group.

    The group of a crop is its image's sample, or the image file where none is named: crops of one
    image or stack never come on two sides of a split. Crowds are left out, and are no background
    either; 16 bits are mapped as for a detector of this data set. The folder is there complete, or
    not at all.

    Raises:
        DataError: `out` exists, a class that does not exist or would be mixed with a made one, a
            box without four finite numbers, or nothing to cut.
    """
    if out.exists():
        raise DataError(f"{out}: is there already; name a new folder, or remove it.")
    names = {category["id"]: str(category["name"]) for category in document["categories"]}
    if blank := [key for key, name in names.items() if not name.strip()]:
        raise DataError(
            f"{root}: category {blank[0]} of its COCO file has no name, so that crops of it would "
            "have no label; name it."
        )
    for name in rule.unknown:
        if name not in names.values():
            raise DataError(f"--unknown: no class '{name}'; there are {', '.join(names.values())}.")
    _keep_apart(rule, set(names.values()))
    boxes: dict[Any, list[dict[str, Any]]] = {image["id"]: [] for image in document["images"]}
    for at, box in enumerate(document["annotations"]):
        values = box.get("bbox")
        numbers = isinstance(values, list) and all(isinstance(v, int | float) for v in values)
        if not numbers or len(values) != 4 or not np.isfinite(values).all():
            raise DataError(
                f"{root}: annotations[{at}] of its COCO file has the box {str(values)[:80]}; four "
                "finite numbers are needed; convert the data set again."
            )
        boxes[box["image_id"]].append(box)
    told = Told()
    rows: list[tuple[Any, ...]] = []
    levels = levels_of(document.get("info"))
    stems: set[str] = set()
    with new_folder(out) as folder:
        for image in document["images"]:
            pixels = read_pixels(root / image["file_name"])
            if pixels is None:
                told.unreadable.append(str(image["file_name"]))
                continue
            pixels = cv2.cvtColor(eight_bit(pixels, levels), cv2.COLOR_RGB2BGR)
            sample = image.get("sample")
            whole = page_of(root / image["file_name"])[0]  # the pages of a stack belong together
            group = whole.relative_to(root).as_posix() if sample in (None, "") else sample
            stem = _stem(image["file_name"])
            while stem in stems:  # of a/b.png and a_b.png
                stem += "_"
            stems.add(stem)
            crops = _crops(image["id"], pixels.shape[:2], boxes[image["id"]], names, rule, told)
            for at, crop in enumerate(crops):
                left, top, right, bottom = crop.box
                file = f"{_plain(crop.label)}/{stem}-{at}.png"
                (folder / file).parent.mkdir(exist_ok=True)
                ok, data = cv2.imencode(".png", pixels[top:bottom, left:right])
                assert ok
                (folder / file).write_bytes(data.tobytes())
                rows.append((file, crop.label, group, image["file_name"], *crop.box))
                told.written[crop.label] = told.written.get(crop.label, 0) + 1
        if not rows:
            raise DataError(f"{root}: gives no crop: no image can be read, or none has an object.")
        table = io.StringIO()
        csv.writer(table).writerows([COLUMNS, *rows])
        (folder / "crops.csv").write_bytes(table.getvalue().encode("utf-8", "surrogateescape"))
    return told


def _keep_apart(rule: CropRule, classes: set[str]) -> None:
    """Refuse a class of the data set that would be mixed with one that is made."""
    if rule.background and BACKGROUND in classes:
        raise DataError(
            f"--background: the data set has a class '{BACKGROUND}' of its own, which would be "
            "mixed with what is cut between the objects; rename it, or leave --background out."
        )
    if rule.unknown and UNKNOWN in classes and UNKNOWN not in rule.unknown:
        raise DataError(
            f"--unknown: the data set has a class '{UNKNOWN}' of its own; name it as well, if it "
            "is to be one with the others, or rename it."
        )


def _crops(
    image_id: Any,
    size: tuple[int, ...],
    boxes: Sequence[Mapping[str, Any]],
    names: Mapping[Any, str],
    rule: CropRule,
    told: Told,
) -> Iterator[Crop]:
    """The crops of one image of (height, width) `size`."""
    height, width = size[:2]
    sides = []
    for box in boxes:
        x, y, w, h = box["bbox"]
        if box.get("iscrowd"):
            continue
        if min(w, h) < rule.smallest:
            told.small += 1
            continue
        label = names[box["category_id"]]
        cut = cut_at_box((x, y, w, h), (height, width), rule.margin)
        if cut is None:
            told.small += 1
            continue
        sides.append((cut[2] - cut[0], cut[3] - cut[1]))
        yield Crop(UNKNOWN if label in rule.unknown else label, cut)
    key = int.from_bytes(str(image_id).encode()[-6:], "little")
    random = np.random.default_rng([rule.seed, key])
    taken = np.array([[b[0], b[1], b[0] + b[2], b[1] + b[3]] for b in (x["bbox"] for x in boxes)])
    quarter = min(height, width) // 4
    for _ in range(rule.background):
        found = _free_place(random, (height, width), sides or [(quarter, quarter)], taken)
        told.asked += 1
        told.crowded += found is None
        if found:
            yield Crop(BACKGROUND, found)


def cut_at_box(
    box: Sequence[float], size: Sequence[int], margin: float
) -> tuple[int, int, int, int] | None:
    """What is cut out of an image of (height, width) `size` for a box xywh: xyxy in whole px.

    The margin is a share of the box's sides, on each side, as far as the image goes. None where
    nothing is left, or the box is no box of finite numbers.
    """
    x, y, w, h = box
    dx, dy = margin * w, margin * h
    edges = (x - dx, y - dy, x + w + dx, y + h + dy)
    if not all(map(math.isfinite, edges)) or min(w, h) <= 0:
        return None
    height, width = size
    left, top = max(0, int(edges[0])), max(0, int(edges[1]))
    right, bottom = min(width, math.ceil(edges[2])), min(height, math.ceil(edges[3]))
    return (left, top, right, bottom) if left < right and top < bottom else None


def _free_place(
    random: np.random.Generator,
    size: tuple[int, int],
    sides: Sequence[tuple[int, int]],
    taken: np.ndarray,
) -> tuple[int, int, int, int] | None:
    """A box of the size of one of the objects that touches none of them, if one is found."""
    height, width = size
    for _ in range(TRIES):
        w, h = sides[int(random.integers(len(sides)))]
        left, top = int(random.integers(width - w + 1)), int(random.integers(height - h + 1))
        box = (left, top, left + w, top + h)
        apart = len(taken) == 0 or bool(
            (
                (taken[:, 2] <= box[0])
                | (taken[:, 0] >= box[2])
                | (taken[:, 3] <= box[1])
                | (taken[:, 1] >= box[3])
            ).all()
        )
        if apart and w and h:
            return box
    return None


def _plain(label: str) -> str:
    """A class as a folder's name."""
    return _short(re.sub(r"[^\w.-]+", "_", label).strip("._") or "class")


def _stem(file_name: str) -> str:
    """One name for an image in any folder."""
    return _short("_".join(PurePosixPath(file_name).parts).replace(".", "_"))


def _short(name: str) -> str:
    """A name that a file system takes, with room for a number behind it."""
    whole = name.encode("utf-8", "surrogateescape")
    if len(whole) <= LONGEST:
        return name
    digest = hashlib.blake2b(whole, digest_size=6).hexdigest()
    return f"{whole[: LONGEST - 13].decode(errors='ignore')}-{digest}"
