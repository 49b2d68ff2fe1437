"""CSV tables of boxes, one a row: by the names in the header, by a stated map, or without header.

Without a header a row is `image,xmin,ymin,xmax,ymax,class`, as RetinaNet's tools write it; a row
without numbers says that its image holds nothing. The VGG Image Annotator's tables are read too.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detkd.data.geometry import around, around_ellipse, finite, ring
from detkd.data.images import SUFFIXES, files_below
from detkd.data.pairing import Images, path_notes
from detkd.data.records import (
    DROPPED_BOX,
    DROPPED_IMAGE,
    MENDED,
    BoxRecord,
    DataSet,
    ImageRecord,
    Problem,
    Rule,
    clean,
    named,
    noted,
    relative,
)
from detkd.encoding import decode
from detkd.errors import DataError
from detkd.tables import delimiter_of, with_point

# What each column may be called, in lower case with _ for blanks. The first that is there counts.
NAMES: dict[str, tuple[str, ...]] = {
    "image": ("image", "filename", "file_name", "file", "image_path", "path", "img", "image_name",
              "imagename", "image_id", "imageid"),
    "class": ("class", "label", "class_name", "classname", "name", "category", "category_name",
              "labelname", "species", "taxon"),
    "xmin": ("xmin", "x_min", "x1", "left", "xtl", "bbox_xmin"),
    "ymin": ("ymin", "y_min", "y1", "top", "ytl", "bbox_ymin"),
    "xmax": ("xmax", "x_max", "x2", "right", "xbr", "bbox_xmax"),
    "ymax": ("ymax", "y_max", "y2", "bottom", "ybr", "bbox_ymax"),
    "x": ("x", "bbox_x", "left", "xmin", "x_min"),
    "y": ("y", "bbox_y", "top", "ymin", "y_min"),
    "cx": ("cx", "x_center", "xcenter", "center_x", "x_centre"),
    "cy": ("cy", "y_center", "ycenter", "center_y", "y_centre"),
    "w": ("w", "bbox_w", "bbox_width", "box_width", "width"),
    "h": ("h", "bbox_h", "bbox_height", "box_height", "height"),
    "image_width": ("image_width", "img_width", "imagewidth", "width"),
    "image_height": ("image_height", "img_height", "imageheight", "height"),
    "difficult": ("difficult",),
    "truncated": ("truncated", "istruncated"),
    "sample": ("sample",),
}  # fmt: skip
FORMS = {
    "corners": (("xmin", "ymin", "xmax", "ymax"), "[xmin, ymin, xmax-xmin, ymax-ymin]"),
    "sides": (("x", "y", "w", "h"), "[x, y, w, h]"),
    "centres": (("cx", "cy", "w", "h"), "[cx-w/2, cy-h/2, w, h]"),
}
VIA = ("filename", "region_shape_attributes", "region_attributes")
OF_VIA = {"file_size", "file_attributes", "region_count", "region_id", *VIA}
HEAD = 65536
TABLES = (".csv", ".tsv")


@dataclass(frozen=True)
class Table:
    """How a table is read: its separator, the column of each part, and how its boxes are meant."""

    delimiter: str
    column: Mapping[str, int]
    header: tuple[str, ...]  # empty where the first row is data already
    form: str  # corners, sides, centres, or via

    def rule(self) -> Rule:
        meaning = FORMS[self.form][1] if self.form in FORMS else "[x, y, width, height] of shapes"
        return Rule(f"csv-{self.form}", meaning)


def recognise(path: Path) -> int:
    """How many tables of boxes there are."""
    return len(_tables(path, {}))


def read(path: Path, *, columns: Mapping[str, str] | None = None) -> DataSet:
    """The boxes of the tables below a folder, or of one table.

    Columns that nothing else is known of become attributes of the box. Corners are edges: a width
    is xmax - xmin, whatever the tool that wrote the table counted.

    Args:
        path: a folder or a CSV file.
        columns: name of the column of each part (image, class, xmin, ...), where the header does
            not say it by a name that is known.

    Raises:
        DataError: there is no such table, or no such column. A broken row raises nothing: it is
            told.
    """
    columns = columns or {}
    root = path if path.is_dir() else path.parent
    tables = _tables(path, columns)
    if not tables and path.is_file():
        raise DataError(
            f"{path}: has no columns that are known ({_first_line(path)}); name them, such as "
            "--columns image=file,class=species,xmin=left,ymin=top,xmax=right,ymax=bottom."
        )
    if not tables:
        raise DataError(f"{root}: holds no table of boxes; name its columns with --columns.")
    problems: list[Problem] = []
    first = next(iter(tables.values()))
    return DataSet("csv", first.rule(), [], _records(root, tables, problems), problems)


def _tables(path: Path, columns: Mapping[str, str]) -> dict[Path, Table]:
    files = [path] if path.is_file() else files_below(path, *TABLES)
    named = [file for file in files if file.suffix.lower() in TABLES]
    tables = {file: _understand(file, columns) for file in named}
    return {file: table for file, table in tables.items() if table is not None}


def _first_line(path: Path) -> str:
    return clean(_head(path).split("\n", 1)[0])[:100]


def _head(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return decode(stream.read(HEAD))[0]
    except OSError:
        return ""


def _understand(path: Path, columns: Mapping[str, str]) -> Table | None:
    """How a file is to be read, if it is a table of boxes."""
    lines = [line for line in _head(path).splitlines() if line.strip()]
    if not lines:
        return None
    delimiter = delimiter_of(lines[0])
    try:
        rows = list(csv.reader(lines[:2], delimiter=delimiter))
    except csv.Error:
        return None
    cells = [cell.strip() for cell in rows[0]] if rows else []
    if not columns and len(cells) >= 6 and _is_plain_row(cells, delimiter):
        order = ("image", "xmin", "ymin", "xmax", "ymax", "class")
        return Table(delimiter, {part: at for at, part in enumerate(order)}, (), "corners")
    names = [re.sub(r"[\s-]+", "_", cell.lower()) for cell in cells]
    if all(name in names for name in VIA):
        column = {name: names.index(name) for name in VIA}
        return Table(delimiter, column, tuple(cells), "via")
    column = _columns(cells, names, columns)
    for form, (parts, _) in FORMS.items():
        if all(part in column for part in ("image", "class", *parts)):
            column = {k: v for k, v in column.items() if k in parts or v not in
                      {column[part] for part in parts}}  # fmt: skip
            return Table(delimiter, column, tuple(cells), form)
    return None


def _is_plain_row(cells: Sequence[str], delimiter: str) -> bool:
    empty = not any(cells[1:6])
    sides = finite(_points(cells[1:5], delimiter))
    return bool(cells[0]) and (empty or (sides is not None and bool(cells[5])))


def _points(values: Sequence[str], delimiter: str) -> list[str]:
    """Numbers with decimal points, where a spreadsheet printed decimal commas."""
    return [with_point(each, delimiter) for each in values]


def _columns(cells: list[str], names: list[str], said: Mapping[str, str]) -> dict[str, int]:
    """The column of each part that the map or the header names."""
    found = {part: cells.index(name) for part, name in said.items() if name in cells}
    for part, known in NAMES.items():
        there = next((names.index(name) for name in known if name in names), None)
        if part not in said and there is not None:
            found[part] = there
    return found


def _records(
    root: Path, tables: Mapping[Path, Table], problems: list[Problem]
) -> Iterator[ImageRecord]:
    images = Images(root)
    rows_of: dict[Path, list[tuple[Path, int, list[str]]]] = {}
    for path, table in tables.items():
        name = relative(path, root)
        missing: dict[str, int] = {}
        told: list[Problem] = []
        for number, row in _rows(path, table, name, problems):
            at = table.column["filename" if table.form == "via" else "image"]
            said = row[at].strip() if at < len(row) else ""
            image = _image(said, images, path.parent)
            if image is None:
                missing.setdefault(said, number)
                continue
            if not told:  # once a table: all its rows come from one computer
                told = path_notes(said, name, f"line {number}")
            rows_of.setdefault(image, []).append((path, number, row))
        problems += told
        for said, number in missing.items():
            message = (
                f"is of '{clean(said)[:80]}', which is not in the tree, or there several times"
            )
            problems.append(
                Problem("missing image", name, f"line {number}", message, DROPPED_IMAGE)
            )
    seen = {relative(image, root) for image in rows_of}
    for image in sorted(rows_of):
        rows = [(relative(p, root), tables[p], n, row) for p, n, row in rows_of.pop(image)]
        yield _record(relative(image, root), rows)
    yield from images.unlabelled(seen)


def _image(said: str, images: Images, base: Path) -> Path | None:
    """The image of a row; some tables leave out what its name ends in."""
    ends = ("",) if said.lower().endswith(SUFFIXES) else ("", *SUFFIXES)
    found = (images.named(f"{said}{end}", base) for end in ends)
    return next((image for image in found if image is not None), None)


def _rows(
    path: Path, table: Table, name: str, problems: list[Problem]
) -> Iterator[tuple[int, list[str]]]:
    try:
        text, unusual = decode(path.read_bytes())
    except OSError as error:
        message = f"cannot be read ({error.strerror})"
        problems.append(Problem("malformed annotation", name, "", message, DROPPED_IMAGE))
        return
    if unusual:
        problems.append(noted("encoding", name, "", unusual))
    reader = csv.reader(io.StringIO(text.replace("\0", " ")), delimiter=table.delimiter)
    try:
        for at, row in enumerate(reader):
            if any(cell.strip() for cell in row) and not (at == 0 and table.header):
                yield reader.line_num, row
    except csv.Error as error:
        message = f"is broken at line {reader.line_num} ({error}), and was read up to there"
        problems.append(Problem("malformed annotation", name, "", message, DROPPED_IMAGE))


def _record(file: str, rows: list[tuple[str, Table, int, list[str]]]) -> ImageRecord:
    boxes: list[BoxRecord] = []
    found: list[Problem] = []
    sample, size = None, None
    for name, table, number, row in rows:
        reader = _read_via if table.form == "via" else _read_row
        box, trouble = reader(row, table, name, f"line {number}")
        found += trouble
        if box is not None:
            boxes.append(box)
        sample = sample or _cell(row, table, "sample") or None
        said = finite([_cell(row, table, side) for side in ("image_width", "image_height")])
        size = size or said
    return ImageRecord(
        file,
        0,
        0,
        boxes=tuple(boxes),
        sample=sample,
        labelled=bool(boxes) or not any(p.action == DROPPED_BOX for p in found),
        said_size=(int(size[0]), int(size[1])) if size and min(size) >= 1 else None,
        problems=tuple(found),
    )


def _cell(row: Sequence[str], table: Table, part: str) -> str:
    at = table.column.get(part)
    return row[at].strip() if at is not None and at < len(row) else ""


def _read_row(
    row: list[str], table: Table, file: str, where: str
) -> tuple[BoxRecord | None, list[Problem]]:
    """The box of a row; nothing and no problem where the row says that there is none."""
    said = row[table.column["class"]] if table.column["class"] < len(row) else ""
    values = [_cell(row, table, part) for part in FORMS[table.form][0]]
    label, where, problems = named(said, file, where)
    if not label and not any(values):
        return None, []

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [*problems, Problem(kind, file, where, message, DROPPED_BOX)]

    if not label:
        return drop("object without name", "names no class")
    if not all(values):
        return drop("missing coordinate", "has fewer than four coordinates")
    numbers = finite(_points(values, table.delimiter))
    if numbers is None:
        return drop("not finite", f"has coordinates that are no finite numbers: {values}"[:120])
    a, b, c, d = numbers
    frame = {
        "corners": (a, b, c, d),
        "sides": (a, b, a + c, b + d),
        "centres": (a - c / 2, b - d / 2, a + c / 2, b + d / 2),
    }[table.form]
    known = set(table.column.values())
    attributes = {
        clean(name): row[at].strip()
        for at, name in enumerate(table.header)
        if at not in known and at < len(row) and clean(name) and row[at].strip()
    }
    flags = {key: _flag(_cell(row, table, key)) for key in ("difficult", "truncated")}
    box = BoxRecord(
        label,
        *frame,
        difficult=flags["difficult"],
        truncated=flags["truncated"],
        attributes=attributes,
    )
    return box, problems


def _flag(text: str) -> bool | None:
    return text.lower() in ("1", "true", "yes", "1.0") if text else None


def _read_via(
    row: list[str], table: Table, file: str, where: str
) -> tuple[BoxRecord | None, list[Problem]]:
    """The region of a row of the VGG Image Annotator; an empty one says that there is none."""

    def drop(kind: str, message: str) -> tuple[None, list[Problem]]:
        return None, [Problem(kind, file, where, message, DROPPED_BOX)]

    try:
        shape = json.loads(_cell(row, table, "region_shape_attributes") or "{}")
        said = json.loads(_cell(row, table, "region_attributes") or "{}")
    except (ValueError, RecursionError):
        return drop("malformed line", "has a region that is no JSON")
    if not isinstance(shape, dict) or not isinstance(said, dict):
        return drop("malformed line", "has a region that is no JSON object")
    if not shape:
        return None, []
    named = [said[key] for key in (*NAMES["class"], *said) if isinstance(said.get(key), str)]
    label = clean(named[0]) if named else ""
    if not label:
        return drop("object without name", "names no class in region_attributes")
    attributes = {k: v for k, v in said.items() if v != named[0]}
    kind = shape.get("name")
    if kind in ("polygon", "polyline") and isinstance(shape.get("all_points_x"), list):
        xs, ys = finite(shape["all_points_x"]), finite(shape.get("all_points_y") or [])
        if xs is None or ys is None or len(xs) != len(ys) or len(xs) < 3:
            return drop("missing coordinate", "has points that are no finite numbers")
        points = list(zip(xs, ys, strict=True))
        extra = {"segmentation": [ring(points)]}
        return BoxRecord(label, *around(points), attributes=attributes, extra=extra), []
    if kind in ("circle", "ellipse"):
        radii = [shape.get("rx", shape.get("r")), shape.get("ry", shape.get("r"))]
        sides = finite([shape.get("cx"), shape.get("cy"), *radii])
        if sides is not None:
            cx, cy, rx, ry = sides
            frame = (cx - rx, cy - ry, cx + rx, cy + ry)
            theta = finite([shape.get("theta", 0)])
            if not (theta and theta[0]):
                return BoxRecord(label, *frame, attributes=attributes), []
            degrees = math.degrees(theta[0])
            message = f"is turned by {degrees:g} degrees; the box around it is kept"
            told = Problem("rotated box", file, f"{where} ({label})", message, MENDED)
            frame = around_ellipse(frame, degrees)
            return BoxRecord(label, *frame, attributes=attributes), [told]
    if kind == "point":
        return drop("shape without area", "is a point, which is no box")
    sides = finite([shape.get(key) for key in ("x", "y", "width", "height")])
    if sides is None:
        return drop("missing coordinate", "has no coordinates that are finite numbers")
    x, y, w, h = sides
    return BoxRecord(label, x, y, x + w, y + h, attributes=attributes), []
