"""Records that are gone through several times, in memory while they are few, then on disk."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import IO, Any, overload

from detkd.data.records import BoxRecord, ImageRecord, Problem

IN_MEMORY = 12_000  # records; beyond, only their names and places are kept in memory


class Spool(Sequence[ImageRecord]):
    """Records in the order of their files. What it writes, it alone reads, and it is gone with it.

    `add` all, then `sort`, then read.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._few: list[ImageRecord] = []
        self._stream: IO[bytes] | None = None
        self._places: list[tuple[str, int]] = []  # name and offset of each

    def add(self, record: ImageRecord) -> None:
        if self._stream is None and len(self._few) < self._in_memory:
            self._few.append(record)
            return
        if self._stream is None:
            self._stream = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as we do)
            few, self._few = self._few, []
            for each in few:
                self._write(each, self._stream)
        self._write(record, self._stream)

    def _write(self, record: ImageRecord, stream: IO[bytes]) -> None:
        self._places.append((record.file, stream.tell()))
        stream.write(json.dumps(_values(record)).encode() + b"\n")

    def sort(self) -> None:
        self._few.sort(key=lambda record: record.file)
        self._places.sort()

    def __len__(self) -> int:
        return len(self._places) or len(self._few)

    def __iter__(self) -> Iterator[ImageRecord]:
        if self._stream is None:
            yield from self._few
            return
        for _, place in self._places:
            yield self._read(place)

    @overload
    def __getitem__(self, at: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, at: slice) -> list[ImageRecord]: ...
    def __getitem__(self, at: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        return self._few[at] if self._stream is None else self._read(self._places[at][1])

    def _read(self, place: int) -> ImageRecord:
        assert self._stream is not None
        self._stream.seek(place)
        return _record(json.loads(self._stream.readline()))


def _values(record: ImageRecord | BoxRecord | Problem) -> dict[str, Any]:
    """The fields of a record by name, and those of the records in it."""
    values = {field.name: getattr(record, field.name) for field in fields(record)}
    for name in ("boxes", "problems"):
        if name in values:
            values[name] = [_values(each) for each in values[name]]
    return values


def _record(values: dict[str, Any]) -> ImageRecord:
    boxes = tuple(BoxRecord(**box) for box in values.pop("boxes"))
    problems = tuple(
        Problem(**{**problem, "box": _tuple(problem["box"])}) for problem in values.pop("problems")
    )
    size = _tuple(values.pop("said_size"))
    return ImageRecord(**values, boxes=boxes, problems=problems, said_size=size)


def _tuple(values: list[Any] | None) -> Any:
    """JSON knows no tuples."""
    return None if values is None else tuple(values)
