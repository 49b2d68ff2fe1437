"""Groups of images after a table: which row means which image, however it writes the path."""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from detkd.errors import DataError
from detkd.pixels import PAGE
from detkd.tables import open_table

FILE_COLUMNS = ("file", "image", "image_id", "file_name")
GROUP_COLUMNS = ("group", "group_id", "sample")


# What of a row and what of an image has to be equal, the surest first: a row may leave out the
# number of a page, and the suffix.
LEVELS = (("name", "name"), ("name", "file"), ("stem", "stem"))


@dataclass(frozen=True)
class Named:
    """An image as a row or a data set names it: its folders, and what it may be called."""

    written: str
    folders: tuple[str, ...]
    name: str

    @cached_property
    def file(self) -> str:
        """The name without the number of a page."""
        page = PAGE.fullmatch(self.name)
        return page["file"] if page else self.name

    @cached_property
    def stem(self) -> str:
        """The name without page and suffix; what begins with a digit is no suffix."""
        path = PurePosixPath(self.file)
        return path.name if path.suffix[1:2].isdigit() else path.stem


@dataclass(frozen=True)
class Row(Named):
    group: str
    line: int


def groups_of_names(table: Path, names: Sequence[str], column: str | None) -> list[str | None]:
    """Group of each image after a CSV file; None, or empty, of one that is in none.

    A row and an image belong together that have more of their folders in common, counted from the
    file, than either has with another: `C:\\slides\\A\\001.png` means `images/A/001.png`, and not
    `images/B/001.png`. With equal folders the whole name goes before the name without its page, and
    this before the stem. An image that no row means goes with the one beside it of the same stem.

    Raises:
        DataError: the table has no column of images or of groups, or fits no image; or it does not
            say which of two images a row means, or which of two groups an image is in.
    """
    rows = _rows(table, column)
    images = [_named(name) for name in names]
    row_of = _matched(table, rows, images)
    if not row_of:
        raise DataError(f"{table}: names none of the images; is it the table of another data set?")
    beside: dict[tuple[Any, ...], set[str]] = defaultdict(set)
    for at, row in row_of.items():
        beside[images[at].folders, images[at].stem].add(row.group)
    found: list[str | None] = []
    for at, image in enumerate(images):
        near = beside.get((image.folders, image.stem), set())
        alike = next(iter(near)) if len(near) == 1 else None
        found.append(row_of[at].group if at in row_of else alike)
    return found


def _matched(table: Path, rows: Sequence[Row], images: Sequence[Named]) -> dict[int, Row]:
    """The row of each image that has one, by its place; the nearest are joined first."""
    row_of: dict[int, Row] = {}
    free = list(rows)
    deepest = [max((len(each.folders) for each in side), default=0) for side in (rows, images)]
    for depth in range(min(deepest), -1, -1):
        for of_row, of_image in LEVELS:
            meant: dict[Key, list[Row]] = defaultdict(list)
            for row in free:
                if len(row.folders) >= depth:
                    meant[_key(row, depth, of_row)].append(row)
            wanting: dict[Key, list[int]] = defaultdict(list)
            for at, image in enumerate(images):
                if at not in row_of and len(image.folders) >= depth:
                    wanting[_key(image, depth, of_image)].append(at)
            taken = set()
            for key, places in wanting.items():
                if same := meant.get(key):
                    _agree(table, same, [images[at] for at in places])
                    row_of.update(dict.fromkeys(places, same[0]))
                    taken.update(same)
            free = [row for row in free if row not in taken]
    return row_of


Key = tuple[tuple[str, ...], str]


def _key(named: Named, depth: int, called: str) -> Key:
    return named.folders[len(named.folders) - depth :], getattr(named, called)


def _agree(table: Path, rows: Sequence[Row], images: Sequence[Named]) -> None:
    """Refuse rows of several groups, or images of several folders, that nothing tells apart."""
    first, image = rows[0], images[0]
    for row in rows:
        if row.group != first.group:
            raise DataError(
                f"{table}: line {first.line} ('{first.written}') and line {row.line} "
                f"('{row.written}') may both mean {image.written}, and put it into two groups, "
                f"'{first.group}' and '{row.group}'; write the image with its folders in the table."
            )
    for other in images:
        if other.folders != image.folders:
            raise DataError(
                f"{table}, line {first.line}: '{first.written}' may mean {image.written} or "
                f"{other.written}; write each image with its folders in the table."
            )


def _named(written: str) -> Named:
    folders, name = _parts(written)
    return Named(written, folders, name)


def _parts(written: str) -> tuple[tuple[str, ...], str]:
    """Folders and name of a path of any system, without what leads to its beginning."""
    path = written.strip().replace("\\", "/")
    drive, colon, rest = path.partition(":")
    if colon and len(drive) == 1 and drive.isalpha():
        path = rest
    *folders, name = [part for part in path.split("/") if part not in ("", ".", "..")] or [""]
    return tuple(folders), name


def _rows(table: Path, column: str | None) -> list[Row]:
    """The rows of a CSV file, each image once."""
    try:
        reader = open_table(table)
        columns = list(reader.fieldnames or ())
        key = next((name for name in FILE_COLUMNS if name in columns), None)
        value = column or next((name for name in GROUP_COLUMNS if name in columns), None)
        if key is None or value is None or value not in columns:
            raise DataError(
                f"{table}: needs a column of images ({', '.join(FILE_COLUMNS)}) and one of "
                f"groups ({', '.join(GROUP_COLUMNS)}, or --group-column); "
                f"it has {', '.join(columns)}."
            )
        rows: dict[tuple[Any, ...], Row] = {}
        for each in reader:
            written = (each[key] or "").strip()
            group = (each[value] or "").strip()
            folders, name = _parts(written)
            row = Row(written, folders, name, group, reader.line_num)
            before = rows.setdefault((folders, name), row)
            if before.group != group:
                raise DataError(
                    f"{table}: puts '{written}' into two groups, '{before.group}' and '{group}'; "
                    "an image is in one."
                )
        return [row for row in rows.values() if row.name]
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error}).") from error
