"""Groups of images after a table: which row means which image, however it writes the path."""

from __future__ import annotations

import csv
import unicodedata
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TypeVar

from detkd.errors import DataError
from detkd.pixels import PAGE
from detkd.tables import open_table

FILE_COLUMNS = ("file", "image", "image_id", "file_name")
GROUP_COLUMNS = ("group", "group_id", "sample")
LEVELS = 5  # of `Named.as_row` and `Named.as_image`
Name = str | tuple[str, str | None]
Key = tuple[tuple[str, ...], Name]
AnyNamed = TypeVar("AnyNamed", bound="Named")


@dataclass(frozen=True)
class Named:
    """An image as a row or a data set names it: its folders, and its name in the last of them."""

    written: str
    folders: tuple[str, ...]
    name: str

    @cached_property
    def file_and_page(self) -> tuple[str, str | None]:
        """The name without the number of a stack's page, and that, which a row may leave out."""
        match = PAGE.fullmatch(self.name)
        return (match["file"], match["page"]) if match else (self.name, None)

    @cached_property
    def stem(self) -> str:
        """The name without page and suffix; what begins with a digit is no suffix."""
        path = PurePosixPath(self.file_and_page[0])
        stem = path.name if path.suffix[1:2].isdigit() else path.stem
        return stem.removesuffix(".ome")

    # What of a row and what of an image has to be equal, the surest first: a row may leave out
    # page and suffix, or have another suffix.

    @cached_property
    def as_row(self) -> tuple[Name, ...]:
        paged = self.stem, self.file_and_page[1]
        return self.name, self.name, self.name, paged, paged

    @cached_property
    def as_image(self) -> tuple[Name, ...]:
        file, page = self.file_and_page
        return self.name, file, self.stem, (self.stem, page), (self.stem, None)


@dataclass(frozen=True)
class Row(Named):
    group: str
    line: int


def groups_of_names(table: Path, names: Sequence[str], column: str | None) -> list[str | None]:
    """Group of each image after a CSV file; None, or empty, of one that is in none.

    A row and an image belong together that have more of their folders in common, counted from the
    file, than either has with another: `C:\\slides\\A\\001.png` means `images/A/001.png`, and not
    `images/B/001.png`. With equal folders the whole name goes before the name without its page, and
    this before the stem. Without a folder in common a row means an image by its name alone, if the
    row has no folders, or if all of the table's are others and each image is meant. An image that
    no row means goes with the one beside it of the same stem.

    Raises:
        DataError: the table has no column of images or of groups, or fits no image; or it does not
            say which of two images a row means, or which of two groups an image is in.
    """
    rows = _rows(table, column)
    images = [Named(name, *_parts(name)) for name in names]
    row_of = _matched(table, *_comparable(rows, images))
    if not row_of:
        raise DataError(
            f"{table}: names none of the images; is it the table of another data set? A row names "
            f"one as the data does{f', such as {names[0]}' if names else ''}."
        )
    beside: dict[tuple[tuple[str, ...], str], set[str]] = defaultdict(set)
    for at, row in row_of.items():
        beside[images[at].folders, images[at].stem].add(row.group)
    found: list[str | None] = []
    for at, image in enumerate(images):
        near = beside.get((image.folders, image.stem), set())
        alike = next(iter(near)) if len(near) == 1 else None
        found.append(row_of[at].group if at in row_of else alike)
    return found


def _comparable(rows: Sequence[Row], images: Sequence[Named]) -> tuple[list[Row], list[Named]]:
    """The same without last folders that tell nothing apart, and without case, where that can be.

    Such a folder is at the end of all paths of both sides; or of all of one side and nowhere in the
    other, and below folders that do tell apart: `A/crop/1.png` and `B/crop/1.png`.
    """
    rows, images = list(rows), list(images)
    cut = True
    while cut:
        ends = _last(rows), _last(images)
        both = ends[0] is not None and ends[0] == ends[1]
        cut_rows = both or _is_below(ends[0], rows, images)
        cut_images = both or _is_below(ends[1], images, rows)
        rows, images = _without_last(rows, cut_rows), _without_last(images, cut_images)
        cut = cut_rows or cut_images
    folded = _folded(rows), _folded(images)
    return folded if all(folded) else (rows, images)


def _last(named: Sequence[Named]) -> str | None:
    """The last folder, if all have the same."""
    ends = {each.folders[-1:] for each in named}
    return next(iter(ends))[0] if len(ends) == 1 and () not in ends else None


def _is_below(end: str | None, named: Sequence[Named], other: Sequence[Named]) -> bool:
    """Whether this last folder of all is below what tells apart, and no such thing itself."""
    theirs = {each.folders for each in other}
    if end is None or any(end in path for path in theirs):
        return False
    mine = {each.folders for each in named}
    if len(mine) > 1:
        return True
    above = next(iter(mine))[-2:-1]
    held = {set(above) <= set(path) for path in theirs}
    return bool(above) and len(held) > 1


def _without_last(named: list[AnyNamed], cut: bool) -> list[AnyNamed]:
    return [replace(each, folders=each.folders[:-1]) for each in named] if cut else named


def _folded(named: Sequence[AnyNamed]) -> list[AnyNamed]:
    """In lower case; nothing, if two of them would be one."""
    folded = [
        replace(each, folders=tuple(map(str.casefold, each.folders)), name=each.name.casefold())
        for each in named
    ]
    before, after = (len({(each.folders, each.name) for each in side}) for side in (named, folded))
    return folded if before == after else []


def _matched(table: Path, rows: Sequence[Row], images: Sequence[Named]) -> dict[int, Row]:
    """The row of each image that has one, by its place; the nearest are joined first."""
    of_path = {(row.folders, row.name): row for row in rows}
    equal = ((at, of_path.get((image.folders, image.name))) for at, image in enumerate(images))
    row_of = {at: row for at, row in equal if row}
    taken = {row.line for row in row_of.values()}
    of_rows, of_images = _Folders(rows), _Folders(images)
    comparable = of_rows.all_names() & of_images.all_names()
    for depth in range(of_rows.shared(of_images), -1, -1):
        # A row whose next folder is there means an image in it that is not, and no other.
        deep = [row for row in rows if len(row.folders) >= depth]
        usable = [row for row in deep if not of_images.know(row, depth + 1)]
        for level in range(LEVELS):
            meant: dict[Key, list[Row]] = defaultdict(list)
            for row in usable:
                if row.line not in taken:
                    meant[_end(row, depth), row.as_row[level]].append(row)
            wanting: dict[Key, list[int]] = defaultdict(list)
            for at, image in enumerate(images):
                if at not in row_of and len(image.folders) >= depth:
                    wanting[_end(image, depth), image.as_image[level]].append(at)
            for key, places in wanting.items():
                # A row with no more folders means any. Others mean no image whose next folder has
                # rows, nor by its name alone where folders can be compared.
                same = meant.get(key, [])
                if not any(len(row.folders) == depth for row in same):
                    places = [
                        at
                        for at in places
                        if not of_rows.know(images[at], depth + 1)
                        and not (comparable and not depth and images[at].folders)
                    ]
                if same and places:
                    row = _one_of(table, same, [images[at] for at in places])
                    row_of.update(dict.fromkeys(places, row))
                    taken.update(each.line for each in same)
    if not comparable:
        _check_guesses(table, images, row_of)
    return row_of


def _check_guesses(table: Path, images: Sequence[Named], row_of: Mapping[int, Row]) -> None:
    """Names alone, in other folders than the data's, are believed if they are those of all images.

    Raises:
        DataError: they are not.
    """
    alone = next((image for at, image in enumerate(images) if at not in row_of), None)
    pairs = ((images[at], row) for at, row in row_of.items())
    guesses = (pair for pair in pairs if all(each.folders for each in pair))
    if alone and (guess := next(guesses, None)):
        image, row = guess
        raise DataError(
            f"{table}: line {row.line} ('{row.written}') is called as {image.written} is, but no "
            f"image is in its folders, and no row means {alone.written}; if it is of this data "
            "set, write the folders as that does."
        )


class _Folders:
    """The folders of rows, or of images, by their ends."""

    def __init__(self, named: Sequence[Named]) -> None:
        self.whole = {each.folders for each in named}
        self.names: dict[int, set[str]] = {}

    def know(self, named: Named, depth: int) -> bool:
        """Whether the folder at this place, counted from the end, is that of some of these."""
        if depth not in self.names:
            long = (folders for folders in self.whole if len(folders) >= depth)
            self.names[depth] = {folders[-depth] for folders in long}
        return len(named.folders) >= depth and named.folders[-depth] in self.names[depth]

    def all_names(self) -> set[str]:
        return {folder for folders in self.whole for folder in folders}

    def shared(self, other: _Folders) -> int:
        """The greatest number of last folders that one of each side have in common."""
        depth, ends = 0, True
        while ends:
            depth += 1
            mine, theirs = (
                {folders[-depth:] for folders in side.whole if len(folders) >= depth}
                for side in (self, other)
            )
            ends = bool(mine & theirs)
        return depth - 1


def _end(named: Named, depth: int) -> tuple[str, ...]:
    return named.folders[len(named.folders) - depth :]


def _one_of(table: Path, rows: Sequence[Row], images: Sequence[Named]) -> Row:
    """The row of these images; of none or one group beside another, as nothing tells it apart.

    Raises:
        DataError: the rows are of several groups, or the images of several folders.
    """
    image, named = images[0], [row for row in rows if row.group]
    first = (named or rows)[0]
    for row in named:
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
    return first


def _parts(written: str) -> tuple[tuple[str, ...], str]:
    """Folders and name of a path of any system, without what leads to its beginning."""
    path = unicodedata.normalize("NFC", written.strip().replace("\\", "/"))
    drive, colon, rest = path.partition(":")
    if colon and len(drive) == 1 and drive.isalpha():
        path = rest
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    *folders, name = parts or [""]
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
        rows: dict[tuple[tuple[str, ...], str], Row] = {}
        for each in reader:
            written = (each[key] or "").strip()
            group = (each[value] or "").strip()
            folders, name = path = _parts(written)
            if not name:
                continue
            row = Row(written, folders, name, group, reader.line_num)
            before = rows.setdefault(path, row)
            if not before.group:
                rows[path] = row
            elif group and group != before.group:
                raise DataError(
                    f"{table}: puts '{written}' into two groups, '{before.group}' and '{group}'; "
                    "an image is in one."
                )
        return list(rows.values())
    except (OSError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as CSV ({error}).") from error
