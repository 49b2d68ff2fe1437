"""Sums by sample and class, which are all that is kept of the frames they are of."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from dataclasses import dataclass, field

import numpy as np

from detkd.deploy.counting.intervals import FrameCounts
from detkd.deploy.counting.shapes import equivalent_diameter


@dataclass
class ClassTally:
    """What is counted of one class, or of all of them, in one sample.

    `by_frame` has the number of frames by (count, area in px), of frames with an object; `volume`
    and `diameter` are sums over the cells, in µm³ and µm; `spectrum` the cells by `bin_of`.
    """

    count: int = 0
    by_frame: Counter[tuple[int, int]] = field(default_factory=Counter)
    volume: float = 0.0
    diameter: float = 0.0
    spectrum: Counter[int] = field(default_factory=Counter)

    def add_frame(self, count: int, area: int) -> None:
        """Add a frame of `area` px with `count` cells, at least one."""
        self.count += count
        self.by_frame[count, area] += 1

    def add_cell(self, volume: float) -> None:
        """Add the size of a cell, by its volume in µm³."""
        diameter = equivalent_diameter(volume)
        self.volume += volume
        self.diameter += diameter
        if diameter > 0:
            self.spectrum[bin_of(diameter)] += 1


@dataclass
class SampleTally:
    """What is counted in one sample.

    `frames` has the number of frames by status, `areas` that of those which could be read by area
    in px.
    """

    frames: Counter[str] = field(default_factory=Counter)
    areas: Counter[int] = field(default_factory=Counter)
    classes: defaultdict[str, ClassTally] = field(default_factory=lambda: defaultdict(ClassTally))
    every: ClassTally = field(default_factory=ClassTally)

    def add_frame(self, found: Counter[str], area: int) -> None:
        """Add a frame of `area` px with so many cells of each class."""
        for label, count in found.items():
            self.classes[label].add_frame(count, area)
        if found:
            self.every.add_frame(sum(found.values()), area)

    def add_cell(self, label: str, volume: float) -> None:
        """Add the size of a cell of a class, by its volume in µm³."""
        self.classes[label].add_cell(volume)
        self.every.add_cell(volume)

    def frame_counts(self, tally: ClassTally, *, by_area: bool) -> FrameCounts:
        """The frames by count and exposure, those without an object as well.

        The exposure is the area of a frame, or 1 where all frames show as much water.
        """
        kinds: Counter[tuple[int, int]] = Counter()
        empty = Counter(self.areas)
        for (count, area), frames in tally.by_frame.items():
            kinds[count, area] += frames
            empty[area] -= frames
        for area, frames in empty.items():
            if frames:
                kinds[0, area] += frames
        rows = sorted(kinds.items())
        return FrameCounts(
            np.array([count for (count, _), _ in rows], dtype=np.int64),
            np.array([area if by_area else 1 for (_, area), _ in rows], dtype=float),
            np.array([frames for _, frames in rows], dtype=np.int64),
        )


def bin_of(diameter: float) -> int:
    """Number of the bin k, from 2^(k/3) µm on: from bin to bin the volume doubles."""
    return math.floor(3 * math.log2(diameter) + 1e-9)


def bin_edge(number: int) -> float:
    """Its lower edge in µm."""
    return float(2 ** (number / 3))
