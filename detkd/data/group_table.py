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
# number of a page, and the suffix, or have another one.
LEVELS = (("name", "name"), ("name", "file"), ("name", "stem"), ("stem", "stem"))


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
    of_rows, of_images = _Folders(rows), _Folders(images)
    row_of: dict[int, Row] = {}
    free, waiting = list(rows), list(range(len(images)))
    for depth in range(of_rows.shared(of_images), -1, -1):
        for of_row, of_image in LEVELS:
            meant: dict[Key, list[Row]] = defaultdict(list)
            for row in free:
                # One whose next folder is there means an image in it that is not, and no other.
                if len(row.folders) >= depth and not of_images.hold(row, depth + 1):
                    meant[_key(row, depth, of_row)].append(row)
            wanting: dict[Key, list[int]] = defaultdict(list)
            for at in waiting:
                if len(images[at].folders) >= depth:
                    wanting[_key(images[at], depth, of_image)].append(at)
            taken = set()
            for key, places in wanting.items():
                # Rows that name no more folders mean any; others no image whose folder has rows.
                known = {at: of_rows.hold(images[at], depth + 1) for at in places}
                bare = [row for row in meant.get(key, ()) if len(row.folders) == depth]
                same = bare if all(known.values()) else meant.get(key, [])
                if same:
                    suited = [at for at in places if bare or not known[at]]
                    _agree(table, same, [images[at] for at in suited])
                    row_of.update(dict.fromkeys(suited, same[0]))
                    taken.update(same)
            free = [row for row in free if row not in taken]
            waiting = [at for at in waiting if at not in row_of]
    return row_of


class _Folders:
    """The folders of rows, or of images, by their ends."""

    def __init__(self, named: Sequence[Named]) -> None:
        self.whole = {each.folders for each in named}
        self.ends: dict[int, set[tuple[str, ...]]] = {}

    def of(self, depth: int) -> set[tuple[str, ...]]:
        """Their last `depth` folders, of those that have so many."""
        if depth not in self.ends:
            long = (folders for folders in self.whole if len(folders) >= depth)
            self.ends[depth] = {folders[len(folders) - depth :] for folders in long}
        return self.ends[depth]

    def hold(self, named: Named, depth: int) -> bool:
        """Whether the last `depth` folders of an image or row are the end of some of these."""
        return len(named.folders) >= depth and named.folders[-depth:] in self.of(depth)

    def shared(self, other: _Folders) -> int:
        """The greatest number of folders at the end that one of each side have in common."""
        depth = 0
        while self.of(depth + 1) & other.of(depth + 1):
            depth += 1
        return depth


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
            if not name:
                continue
            row = Row(written, folders, name, group, reader.line_num)
            before = rows.setdefault((folders, name), row)
            if before.group != group:
                raise DataError(
                    f"{table}: puts '{written}' into two groups, '{before.group}' and '{group}'; "
                    "an image is in one."
                )
        return list(rows.values())
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error}).") from error
