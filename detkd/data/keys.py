"""Which of many values are equal: eight bytes for each, however long it is."""

from __future__ import annotations

from array import array
from collections.abc import Hashable

import numpy as np


class Keys:
    """Hashes of values in the order they came. Equal values share one, and seldom others do."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, value: Hashable) -> None:
        self._hashes.append(hash(value))

    def shared(self) -> list[list[int]]:
        """Numbers, from 0, of the values that share a hash, group by group."""
        hashes = np.frombuffer(self._hashes, np.int64) if self._hashes else np.empty(0, np.int64)
        order = np.argsort(hashes, kind="stable")
        alike = hashes[order[1:]] == hashes[order[:-1]]  # each with the one before
        steps = np.diff(alike.astype(np.int8), prepend=0, append=0)  # 1: a group begins, -1: ends
        pairs = zip(np.flatnonzero(steps == 1), np.flatnonzero(steps == -1), strict=True)
        return sorted(order[first : last + 1].tolist() for first, last in pairs)
