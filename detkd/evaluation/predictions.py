"""Any detector's results as COCO results: a JSON list, a folder of YOLO texts, or a table (CSV)."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from detkd.coco_json import read_json
from detkd.encoding import decode
from detkd.errors import DataError
from detkd.evaluation.results import Result
from detkd.pixels import PAGE
from detkd.tables import delimiter_of, with_point

IMAGE = ("image", "image_id", "file_name", "filename", "file")
CLASS = ("class", "label", "category", "category_id", "name", "class_name")
SCORE = ("score", "confidence", "conf")
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"))


def read_results(path: Path, truth: dict[str, Any]) -> Any:
    """Results in any of the three forms, on the images of `truth`; a JSON document as it is.

    Raises:
        DataError: no such file, or a line that cannot be understood.
    """
    if path.is_dir():
        return _read_yolo(path, truth)
    if path.suffix.lower() == ".csv":
        return _read_table(path, truth)
    return read_json(path, "name COCO results (JSON), a folder of YOLO texts or a CSV")


def _read_yolo(folder: Path, truth: dict[str, Any]) -> list[Result]:
    """One text an image: `class x y width height score`, the box by its centre, shares of 1.

    A class is a place in classes.txt, in the folder or beside it; without that file, a place
    among the truth's categories by their ids.
    """
    texts = sorted(text for text in folder.rglob("*.txt") if text.name != "classes.txt")
    if not texts:
        raise DataError(f"{folder}: holds no .txt; name the folder of the predicted labels.")
    images = _Images(truth)
    categories = _yolo_categories(folder, truth)
    results = []
    for text in texts:
        name = PurePosixPath(text.relative_to(folder).with_suffix("").as_posix())
        image = images.find(str(name), f"{text}")
        width, height = _size(image, str(text))
        for where, numbers in _yolo_lines(text):
            label, x, y, w, h, score = numbers
            if label != int(label) or not 0 <= label < len(categories):
                raise DataError(
                    f"{where} has the class {label:g}; there are {len(categories)}, from 0 on. "
                    "Put a classes.txt beside the texts."
                )
            results.append(
                {
                    "image_id": image["id"],
                    "category_id": categories[int(label)],
                    "bbox": [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height],
                    "score": score,
                }
            )
    return results


def _yolo_lines(text: Path) -> Iterator[tuple[str, list[float]]]:
    for at, line in enumerate(_text(text).splitlines(), start=1):
        where = f"{text}: line {at}"
        words = line.split()
        if not words:
            continue
        if len(words) == 5:
            raise DataError(f"{where} has no score; predict with scores (save_conf=True).")
        if len(words) != 6:
            raise DataError(
                f"{where} has {len(words)} numbers; class x y width height score are 6."
            )
        yield where, [_number(word, where) for word in words]


def _yolo_categories(folder: Path, truth: dict[str, Any]) -> list[Any]:
    """Category ids by YOLO's class numbers; a name that the truth lacks stays, to be told."""
    listed = sorted(truth["categories"], key=lambda entry: entry["id"])
    for place in (folder / "classes.txt", folder.parent / "classes.txt"):
        if place.is_file():
            ids = {entry["name"]: entry["id"] for entry in listed}
            names = [name.strip() for name in _text(place).splitlines() if name.strip()]
            return [ids.get(name, f"class {name}") for name in names]
    return [entry["id"] for entry in listed]


def _read_table(path: Path, truth: dict[str, Any]) -> list[Result]:
    """A table with a header; boxes in px, by corners or by corner and size."""
    header, rows, delimiter = _rows(path)
    columns = {name.strip().lower(): name for name in header}
    image, label, score = (_column(columns, names, path) for names in (IMAGE, CLASS, SCORE))
    box, corners = _box_columns(columns, path)
    images = _Images(truth, by_id=image.strip().lower() == "image_id")
    key = "id" if label.strip().lower() == "category_id" else "name"
    ids = {str(entry[key]): entry["id"] for entry in truth["categories"]}
    results = []
    for line, row in rows:
        where = f"{path}: line {line}"
        x, y, third, fourth = (_number(row[column], where, delimiter) for column in box)
        size = [third - x, fourth - y] if corners else [third, fourth]
        if min(size) < 0:
            raise DataError(f"{where} has a box whose end is before its beginning; mend it.")
        said = (row[label] or "").strip()
        results.append(
            {
                "image_id": images.find((row[image] or "").strip(), where)["id"],
                "category_id": ids.get(said, f"class {said}"),
                "bbox": [x, y, *size],
                "score": _number(row[score], where, delimiter),
            }
        )
    return results


def _rows(path: Path) -> tuple[list[str], list[tuple[int, dict[str, str]]], str]:
    """The names of the columns, each row with its line, and what divides the columns."""
    lines = _text(path).splitlines()
    delimiter = delimiter_of(lines[0]) if lines else ","
    reader = csv.DictReader(lines, restkey="", delimiter=delimiter)
    try:
        header = list(reader.fieldnames or ())
        return header, [(reader.line_num, row) for row in reader], delimiter
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num} is no row of a table ({error})."
        ) from error


def _column(columns: Mapping[str, str], names: tuple[str, ...], path: Path) -> str:
    for name in names:
        if name in columns:
            return columns[name]
    raise DataError(
        f"{path}: its first line names no column '{names[0]}' (or {', '.join(names[1:])})."
    )


def _box_columns(columns: Mapping[str, str], path: Path) -> tuple[list[str], bool]:
    """The four columns of the box, and whether they are corners."""
    for forms, corners in ((CORNERS, True), (SIZES, False)):
        for names in forms:
            if all(name in columns for name in names):
                return [columns[name] for name in names], corners
    raise DataError(
        f"{path}: its first line names no box: xmin, ymin, xmax, ymax or x, y, width, height."
    )


class _Images:
    """The truth's images by path, and by name where only one has it; or by id as well."""

    def __init__(self, truth: dict[str, Any], *, by_id: bool = False) -> None:
        self.by_name: dict[str, dict[str, Any] | None] = {}
        files = [
            (image, PurePosixPath(str(image.get("file_name", image["id"]))))
            for image in truth["images"]
        ]
        for image, file in files:
            for name in {file.name, *_stems(file)}:
                self.by_name[name] = None if name in self.by_name else image
        for image, file in files:
            paths = (file, *(file.parent / stem for stem in _stems(file)))
            self.by_name |= {str(path): image for path in paths}
        if by_id:
            self.by_name |= {str(image["id"]): image for image in truth["images"]}

    def find(self, name: str, where: str) -> dict[str, Any]:
        """The image of this name, the longest part of the path that is known.

        Raises:
            DataError: there is none, or several.
        """
        parts = PurePosixPath(name.replace("\\", "/")).parts
        for at in range(len(parts)):
            image = self.by_name.get("/".join(parts[at:]))
            if image is not None:
                return image
        last = parts[-1] if parts else ""
        what = "several of that name" if last in self.by_name else "none of that name"
        raise DataError(f"{where} is of image '{name}'; the truth lists {what}.")


def _stems(file: PurePosixPath) -> list[str]:
    """What a text about an image may be called; of a page, as its copy to YOLO is called, too."""
    match = PAGE.fullmatch(file.name)
    if match is None:
        return [file.stem]
    stem, page = PurePosixPath(match["file"]).stem, match["page"]
    return [f"{stem}#page={page}", f"{stem}_page{page}"]


def _size(image: dict[str, Any], where: str) -> tuple[float, float]:
    sides = [image.get("width"), image.get("height")]
    known = [float(s) for s in sides if isinstance(s, int | float) and 0 < s < math.inf]
    if len(known) < 2:
        raise DataError(f"{where}: the truth does not say its image's width and height.")
    return known[0], known[1]


def _number(text: str | None, where: str, delimiter: str = ",") -> float:
    said = text or ""
    try:
        value = float(with_point(said, delimiter))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where} has '{said}' where a finite number is needed.")
    return value


def _text(path: Path) -> str:
    try:
        return decode(path.read_bytes())[0]
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; name the results.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); name the results.") from error
