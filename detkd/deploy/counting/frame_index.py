"""All frames of a run, in some 60 bytes each."""

from __future__ import annotations

import hashlib
from array import array

import numpy as np


class FrameIndex:
    """The frames of frames.csv without their names: a hash of 8 bytes, and some numbers each.

    A frame's place is its number in frames.csv, from 0 on; each of the arrays has a number of it.
    """

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._sorted = np.empty(0, np.uint64)
        self._order = np.empty(0, np.int64)
        self.line = array("Q")  # of frames.csv
        self.width = array("I")  # px
        self.height = array("I")
        self.said = array("I")  # detections that frames.csv tells
        self.failed = array("B")
        self.outdated = array("B")  # it failed, was tried again, and is listed again further down
        self.rows = array("I")  # detections that results.csv has
        self.counted = array("I")  # of these
        self.near = array("I")  # of these, near the threshold

    def add(self, frame: str, line: int, size: tuple[int, int], said: int, *, failed: bool) -> None:
        """List a frame with its width and height, before any detection is known."""
        self._hashes.append(_hash(frame))
        self.line.append(line)
        self.width.append(size[0])
        self.height.append(size[1])
        self.said.append(said)
        self.failed.append(failed)
        for unknown in (self.outdated, self.rows, self.counted, self.near):
            unknown.append(0)

    def close(self) -> int | None:
        """Make it ready for `find`; the place of a frame that is listed again, if one is.

        Rows that are outdated are none.
        """
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        outdated = np.frombuffer(self.outdated, dtype=np.uint8)[self._order[:-1]]
        twice = np.flatnonzero((self._sorted[1:] == self._sorted[:-1]) & (outdated == 0))
        return int(self._order[twice + 1].min()) if len(twice) else None

    def find(self, frame: str) -> int | None:
        """The place of a frame, None if it is not listed."""
        value = np.uint64(_hash(frame))
        at = int(np.searchsorted(self._sorted, value, side="right")) - 1
        if at >= 0 and self._sorted[at] == value:
            return int(self._order[at])
        return None

    def unequal(self) -> int:
        """Frames for which results.csv has another number of lines than frames.csv says.

        A run says either how many detections there were, or how many of them counted.
        """
        said, rows, counted = (
            np.frombuffer(each, dtype=np.uintc) for each in (self.said, self.rows, self.counted)
        )
        return int(((said != rows) & (said != counted)).sum())

    def __len__(self) -> int:
        return len(self._hashes)


def _hash(frame: str) -> int:
    data = frame.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")
