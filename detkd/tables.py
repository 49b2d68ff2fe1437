"""Tables whose first line names the columns (CSV), as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from detkd.encoding import decode


def delimiter_of(header: str) -> str:
    """What divides the columns: commas, semicolons or tabs, of which the first line has most."""
    return max(",;\t", key=header.count)


def with_point(number: str, delimiter: str) -> str:
    """A number with a decimal point, where a spreadsheet wrote a comma.

    It may be one where the columns are divided by something else.
    """
    return number if delimiter == "," else number.replace(",", ".")


def open_table(path: Path) -> csv.DictReader[str]:
    """The rows of a table, in any encoding; names of columns have no blanks around them.

    Raises:
        OSError: the file cannot be read.
        csv.Error: its first line is none of a table; later rows raise it when they are read.
    """
    stream = io.StringIO(decode(path.read_bytes())[0], newline="")
    header = stream.readline()
    stream.seek(0)
    reader = csv.DictReader(stream, delimiter=delimiter_of(header))
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    return reader
