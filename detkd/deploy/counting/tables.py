"""Tables that a person has written, and the numbers in tables of any kind."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.wording import shown

DECIMAL = re.compile(r"^\s*(\d+),(\d+)\s*$")  # as it is written where a semicolon parts columns
MOST = 1e12  # of any number that a person gives; more is a mistake


def read_table(
    path: Path, needed: Sequence[str], known: Sequence[str]
) -> tuple[list[str], Iterator[tuple[str, dict[str, str]]]]:
    """Which of the `known` columns a CSV has, and its lines: the place of each, and its cells.

    The cells are those of the `needed` and the `known` columns; others are passed over, and so are
    empty lines. The last line need not be ended. Columns can be parted by semicolons, as where
    numbers have a comma for a point.

    Raises:
        CountingError: no such file, no CSV, or a `needed` column is missing.
    """
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            first = stream.readline()
            separator = ";" if first.count(";") > first.count(",") else ","
            header = next(csv.reader([first], delimiter=separator), [])
    except (OSError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise CountingError(f"{path}: cannot be read ({why}); name a CSV file.") from error
    lacking = [name for name in needed if name not in header]
    if lacking:
        raise CountingError(f"{path}: has no column '{lacking[0]}'; its first line names columns.")
    there = [name for name in known if name in header]
    return there, _lines(path, header, [*needed, *there], separator)


def _lines(
    path: Path, header: Sequence[str], columns: Sequence[str], separator: str
) -> Iterator[tuple[str, dict[str, str]]]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream, delimiter=separator)
        try:
            next(reader)
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                where = f"{path}, line {reader.line_num}"
                if len(row) != len(header):
                    raise CountingError(
                        f"{where}: has {len(row)} fields, not {len(header)}; mend it there."
                    )
                cells = (row[header.index(name)] for name in columns)
                if separator == ";":
                    cells = (DECIMAL.sub(r"\1.\2", cell) for cell in cells)
                yield where, dict(zip(columns, cells, strict=True))
        except csv.Error as error:
            raise CountingError(f"{path}, line {reader.line_num}: is no CSV ({error}).") from error


def number_of(text: str, where: str, name: str) -> float:
    """What a cell says, a finite number.

    Raises:
        CountingError: it is none; `where` and `name` say which cell.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CountingError(f"{where}: {name} '{shown(text)}' is no number; mend it there.")
    return value


def whole_number_of(text: str, where: str) -> int:
    """What a cell of a run's table says, from 0 to 999,999,999.

    Raises:
        CountingError: it is no such number.
    """
    if not re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        raise CountingError(f"{where}: '{shown(text)}' is no whole number; run again.")
    return int(text)
