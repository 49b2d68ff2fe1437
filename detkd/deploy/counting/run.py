"""What a run has written: its tables, whose last line may be torn, and run.json."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.tables import MOST

# Columns of frames.csv and results.csv that are read, and what a frame's status can be.
FRAME_COLUMNS = ("frame", "width", "height", "status", "detections")
RESULT_COLUMNS = ("frame", "class", "score", "x1", "y1", "x2", "y2", "counted")
STATUSES = ("found", "empty", "failed")
# A frame of a stack or a film: the file, and the number of the page or frame, from 1 on.
PAGE = re.compile(r"(?P<file>.+)#(?:page|frame)=(?P<page>[1-9]\d{0,8})", re.DOTALL)


def rows_of(
    path: Path, columns: Sequence[str], notes: list[str] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV by `columns`, each with its number; a torn last line is left out, and noted.

    A line is torn if nothing ends it, or a field is missing.

    Raises:
        CountingError: no such file, another header, or a broken line before the last.
    """
    try:
        stream = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise CountingError(
            f"{path}: cannot be read ({error.strerror}); name the folder that a run has written."
        ) from error
    with stream:
        ended = [True]

        def lines() -> Iterator[str]:
            for line in stream:
                ended[0] = line.endswith("\n")
                yield line

        reader = csv.reader(lines())
        try:
            header = next(reader, [])
            if not ended[0] or any(name not in header for name in columns):
                raise CountingError(
                    f"{path}: its first line lacks columns; expected {','.join(columns)}."
                )
            places = [header.index(name) for name in columns]
            held: list[str] | None = None
            number = 1
            for row in filter(None, reader):
                if held is not None:
                    if len(held) != len(header):
                        raise CountingError(
                            f"{path}, line {number}: has {len(held)} fields, not {len(header)}; "
                            "take the line out, or run again."
                        )
                    yield number, [held[place] for place in places]
                held, number = row, reader.line_num
        except csv.Error as error:
            raise CountingError(
                f"{path}, line {reader.line_num}: is no CSV ({error}); run again."
            ) from error
        if held is not None and ended[0] and len(held) == len(header):
            yield number, [held[place] for place in places]
        elif held is not None and notes is not None:
            notes.append(f"The last line of {path.name} is torn and was left out.")


def read_run(found: Path) -> dict[str, Any]:
    """run.json, checked.

    Raises:
        CountingError: it is missing, or says what it cannot mean.
    """
    path = found / "run.json"
    if not found.is_dir():
        raise CountingError(f"{found}: no such folder; name the folder that a run has written.")
    try:
        run = json.loads(path.read_bytes())
    except OSError as error:
        raise CountingError(
            f"{path}: cannot be read ({error.strerror}); name the folder that a run has written."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CountingError(f"{path}: is no JSON; run again.") from error
    if not isinstance(run, dict):
        raise CountingError(f"{path}: holds no settings; run again.")
    classes = run.get("classes")
    if (
        not isinstance(classes, list)
        or not classes
        or not all(isinstance(name, str) and _writable(name) for name in classes)
        or len(set(classes)) != len(classes)
    ):
        raise CountingError(f"{path}: 'classes' is no list of different names; run again.")
    scale = run.get("um_per_px")
    if scale is not None and not (_finite(scale) and scale > 0):
        raise CountingError(f"{path}: um_per_px {scale!r} is no scale; give --um-per-px.")
    for name, fits in (("thresholds", _finite), ("shapes", lambda value: isinstance(value, str))):
        said = run.get(name)
        if said is not None and not (isinstance(said, dict) and all(map(fits, said.values()))):
            raise CountingError(f"{path}: '{name}' does not name one value a class; run again.")
    if run.get("images") is not None and not isinstance(run["images"], str):
        raise CountingError(f"{path}: 'images' is no folder; run again, or give --images.")
    return run


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def _writable(name: str) -> bool:
    """Whether a name is text; JSON can also hold halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
