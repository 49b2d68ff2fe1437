"""Records that are gone through several times: on disk, so that many need no memory."""

from __future__ import annotations

import marshal
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import IO, Any, overload

from detkd.data.records import BoxRecord, ImageRecord, Problem
from detkd.errors import DataError

IN_MEMORY = 500  # records; beyond, only their places are kept in memory
AT_ONCE = 64  # records that are read from the disk together
BOXES, PROBLEMS = (ImageRecord._fields.index(name) for name in ("boxes", "problems"))
PLAIN = 2  # the version of marshal that looks for no repetitions, which takes as long as the rest


class Spool(Sequence[ImageRecord]):
    """Records in the order of their files. What it writes, it alone reads, and it is gone with it.

    `add` all, then `sort`, then read.
    """

    def __init__(self, in_memory: int = IN_MEMORY) -> None:
        self._in_memory = in_memory
        self._few: list[ImageRecord] = []
        self._stream: IO[bytes] | None = None
        self._places = array("Q", [0])  # where each begins, in the order they came, and the end
        self._order: Sequence[int] = ()  # their numbers, in the order of their files
        self._came_sorted, self._last = True, ""

    def add(self, record: ImageRecord) -> None:
        self._came_sorted = self._came_sorted and self._last <= record.file
        self._last = record.file
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
        self._places.append(self._places[-1] + stream.write(_packed(record)))

    def sort(self) -> None:
        self._order = range(len(self))
        if not self._came_sorted:  # as they nearly always come: names need no memory then
            names = [record.file for record in self]
            self._order = array("Q", sorted(self._order, key=names.__getitem__))

    def added(self, number: int) -> ImageRecord:
        """The record that came as this one, counted from 0, whatever the order is now."""
        if self._stream is None:
            return self._few[number]
        return next(self._read(number, number + 1))

    def __len__(self) -> int:
        return len(self._few) or len(self._places) - 1

    def __iter__(self) -> Iterator[ImageRecord]:
        if self._stream is None or not isinstance(self._order, range):
            yield from map(self.added, self._order)
            return
        for begin in range(0, len(self), AT_ONCE):
            yield from self._read(begin, min(begin + AT_ONCE, len(self)))

    @overload
    def __getitem__(self, at: int) -> ImageRecord: ...
    @overload
    def __getitem__(self, at: slice) -> list[ImageRecord]: ...
    def __getitem__(self, at: int | slice) -> ImageRecord | list[ImageRecord]:
        if isinstance(at, slice):
            return [self[each] for each in range(*at.indices(len(self)))]
        return self.added(self._order[at])

    def _read(self, begin: int, end: int) -> Iterator[ImageRecord]:
        """The records that came as those from `begin` to before `end`."""
        assert self._stream is not None
        first = self._places[begin]
        self._stream.seek(first)
        data = memoryview(self._stream.read(self._places[end] - first))
        for at in range(begin, end):
            yield _unpacked(data[self._places[at] - first : self._places[at + 1] - first])


# marshal, for nobody else writes the file; it knows tuples, and none of our own kinds.


def _packed(record: ImageRecord) -> bytes:
    values: list[Any] = list(record)
    values[BOXES] = [tuple(box) for box in record.boxes]
    values[PROBLEMS] = [tuple(vars(problem).values()) for problem in record.problems]
    try:
        return marshal.dumps(values, PLAIN)
    except ValueError as error:
        raise DataError(
            f"{record.file}: what its annotation says besides is nested too deep; leave it out."
        ) from error


def _unpacked(data: memoryview) -> ImageRecord:
    values = marshal.loads(data)
    values[BOXES] = tuple(starmap(BoxRecord, values[BOXES]))
    values[PROBLEMS] = tuple(starmap(Problem, values[PROBLEMS]))
    return ImageRecord(*values)
