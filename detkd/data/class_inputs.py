"""What a classifier is asked about: the images of a folder, or boxes that a detector has found."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from detkd.data.class_dataset import square
from detkd.data.crops import cut_at_box
from detkd.data.dataset import fitted
from detkd.data.images import image_names, leaves_root
from detkd.errors import DataError
from detkd.pixels import Levels, eight_bit, read_pixels
from detkd.tables import open_table, with_point

IMAGE = ("frame", "image", "file_name", "filename", "file")
CORNERS = (("x1", "y1", "x2", "y2"), ("xmin", "ymin", "xmax", "ymax"))
SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"))
BOX = CORNERS[0]
OF_RESULTS = ("frame", "class", "score", *BOX)


@dataclass(frozen=True)
class Asked:
    """An image below a folder, as a whole or of it a box xywh in px.

    `row` is what is known of it already, by columns; `problem` says why it cannot be looked at.
    """

    file: str
    box: tuple[float, float, float, float] | None = None
    row: Mapping[str, str] = field(default_factory=dict)
    problem: str = ""


@dataclass(frozen=True)
class Inputs:
    """All that is asked about, and the table that names it: its columns, and what divides them."""

    asked: list[Asked]
    columns: tuple[str, ...]
    delimiter: str = ","


def images_of(folder: Path) -> Inputs:
    """All images below a folder.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    found = [Asked(name, row={"file": name}) for name in image_names(folder)]
    if not found:
        raise DataError(f"{folder}: no such folder, or no image in it; name a folder of images.")
    return Inputs(found, ("file",))


def boxes_of_table(path: Path) -> Inputs:
    """The boxes of a table such as results.csv, a row each, whose columns are kept.

    Raises:
        DataError: no table, or one that names no column of images or of boxes.
    """
    try:
        reader = open_table(path)
        columns = list(reader.fieldnames or ())
        rows = [{key: row[key] or "" for key in columns} for row in reader]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a table ({error}).") from error
    image = next((name for name in IMAGE if name in columns), None)
    forms = [names for names in CORNERS + SIZES if set(names) <= set(columns)]
    if image is None or not forms:
        raise DataError(
            f"{path}: needs a column of images ({', '.join(IMAGE)}) and four of a box "
            f"({', '.join(BOX)} or x, y, width, height); it has {', '.join(columns) or 'none'}."
        )
    delimiter = reader.reader.dialect.delimiter
    asked = [_of_row(row, image, forms[0], delimiter) for row in rows]
    return Inputs(asked, tuple(dict.fromkeys(columns)), delimiter)


def _of_row(row: Mapping[str, str], image: str, names: Sequence[str], delimiter: str) -> Asked:
    file = row[image].strip().replace("\\", "/")
    try:
        x, y, third, fourth = (float(with_point(row[name], delimiter)) for name in names)
    except ValueError:
        return Asked(file, None, row, "its box has no four numbers")
    size = (third - x, fourth - y) if names in CORNERS else (third, fourth)
    return Asked(file, (x, y, *size), row)


def boxes_of_coco(results: Any, truth: Mapping[str, Any], path: Path) -> Inputs:
    """The boxes of COCO results on the images of a COCO file, an entry each.

    Raises:
        DataError: no list of results.
    """
    if not isinstance(results, list):
        raise DataError(f"{path}: is no list of COCO results; name a detector's predictions.json.")
    files = {image["id"]: str(image["file_name"]) for image in truth["images"]}
    names = {category["id"]: str(category["name"]) for category in truth["categories"]}
    asked = [_of_result(result, at, files, names) for at, result in enumerate(results)]
    return Inputs(asked, OF_RESULTS)


def _of_result(result: Any, at: int, files: Mapping[Any, str], names: Mapping[Any, str]) -> Asked:
    try:
        file, label = files[result["image_id"]], names.get(result["category_id"], "")
        x, y, w, h = (float(value) for value in result["bbox"])
        score = float(result["score"])
    except (KeyError, TypeError, ValueError):
        why = "is no result with a known image_id, category_id, bbox and score"
        return Asked("", None, {"frame": f"results[{at}]"}, why)
    values = (file, label, score, x, y, x + w, y + h)
    row = {key: str(value) for key, value in zip(OF_RESULTS, values, strict=True)}
    return Asked(file, (x, y, w, h), row)


def pixels_of(
    asked: Sequence[Asked],
    root: Path,
    *,
    image_size: int,
    levels: Levels | None,
    margin: float,
) -> Iterator[np.ndarray | str]:
    """Of each, the image [3, S, S] float32 in 0..1 as a classifier was trained on it, or a problem.

    A box is cut out with its margin as `detkd crop` cuts it. An image is decoded once for the boxes
    of it that follow each other. Without `levels`, those of 16 bits are a problem.
    """
    name, pixels = "", None
    for each in asked:
        if problem := each.problem or _outside(each.file):
            yield problem
            continue
        if each.file != name:
            name, pixels = each.file, read_pixels(root / each.file)
        if pixels is None:
            yield f"cannot be read as an image in {root}"
            continue
        if levels is None and pixels.dtype != np.uint8:
            yield (
                "is of 16 bits, and the classifier has learned from images of 8; --gt names the "
                "COCO file that its crops were cut from, which knows what becomes 0 and 255"
            )
            continue
        image = eight_bit(pixels, levels)
        if each.box is not None:
            cut = cut_at_box(each.box, image.shape[:2], margin)
            if cut is None:
                yield "its box has no size, or lies outside the image"
                continue
            left, top, right, bottom = cut
            image = image[top:bottom, left:right]
        shown = square(fitted(image, image_size)).transpose(2, 0, 1)
        yield np.ascontiguousarray(shown, dtype=np.float32) / 255


def _outside(name: str) -> str:
    outside = not name or leaves_root(PurePosixPath(name)) or "\0" in name
    return "names no image within the folder" if outside else ""
