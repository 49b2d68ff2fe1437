"""Tables whose first line names the columns (CSV), as spreadsheets and scripts write them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from detkd.encoding import decode


def delimiter_of(header: str) -> str:
    """What divides the columns: commas, semicolons or tabs, of which the first line has most."""
    return max(",;\t", key=header.count)


def with_point(number: str, delimiter: str) -> str:
    """A number with a decimal point, where a spreadsheet wrote a comma.

    It may be one where the columns are divided by something else.
    """
    return number if delimiter == "," else number.replace(",", ".")


class Table(csv.DictReader):  # cannot be subscripted before 3.12
    """Rows by the names of their columns; one with more fields than columns is refused.

    A name with a comma in it, and no quotes around it, would move all that follows into other
    columns. Fields without a name that are empty are passed over.
    """

    def __next__(self) -> dict[str | Any, str | Any]:
        row = super().__next__()
        if any(row.pop(None, ())):
            raise csv.Error(
                f"line {self.line_num} has more fields than there are columns; a field that holds "
                f"'{self.reader.dialect.delimiter}' stands in quotes"
            )
        return row


def open_table(path: Path) -> Table:
    """The rows of a table, in any encoding; names of columns have no blanks around them.

    Raises:
        OSError: the file cannot be read.
        csv.Error: its first line is none of a table; rows that are none raise it when they are
            read.
    """
    stream = io.StringIO(decode(path.read_bytes())[0], newline="")
    header, start = stream.readline(), 0
    if header.strip().lower().startswith("sep="):  # what Excel is to divide by
        start = stream.tell()
        header = stream.readline()
    stream.seek(start)
    reader = Table(stream, delimiter=delimiter_of(header))
    reader.fieldnames = [name.strip() for name in reader.fieldnames or []]
    return reader
