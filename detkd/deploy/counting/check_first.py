"""The frames that a person should look at first."""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from detkd.deploy.counting.frame_index import FrameIndex
from detkd.deploy.counting.run import FRAME_COLUMNS, rows_of
from detkd.deploy.counting.samples import Samples
from detkd.deploy.counting.tally import SampleTally

NEAR = 0.1  # of the threshold: a detection that might as well have fallen on the other side
MOST_FRAMES = 25  # of each reason


class Shortlist:
    """The most urgent frames of one reason, as rows of `check_first` in counts.json."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self._heap: list[tuple[float, int, dict[str, Any]]] = []  # the least urgent one first

    def add(self, urgency: float, at: int, frame: str, sample: str, **numbers: int | None) -> None:
        """Keep a frame, if it is urgent enough; of equally urgent ones the first in the list."""
        row = {"frame": frame, "sample": sample, "reason": self.reason, **numbers}
        if len(self._heap) < MOST_FRAMES:
            heapq.heappush(self._heap, (urgency, -at, row))
        else:
            heapq.heappushpop(self._heap, (urgency, -at, row))

    def rows(self) -> list[dict[str, Any]]:
        """The most urgent one first."""
        return [row for _, _, row in sorted(self._heap, key=lambda item: item[:2], reverse=True)]


def frames_to_check(
    found: Path,
    tallies: Mapping[str, SampleTally],
    names: Mapping[str, str],
    samples: Samples,
    index: FrameIndex,
) -> list[dict[str, Any]]:
    """The frames that a person should look at, by reason, the most urgent first.

    Unusual is a count further from the sample's median than three standard deviations, taken as the
    larger of 1.4826 MAD, the square root of the median, and 1 (Leys et al. 2013; Poisson). The
    names of the frames are read again in the run's folder `found`.
    """
    usual = {key: _median_and_spread(tally) for key, tally in tallies.items()}
    failed = Shortlist("could not be read")
    close = Shortlist(f"most scores within {NEAR:g} of the threshold")
    unusual = Shortlist("unusual number of objects")
    for at, (_, row) in enumerate(rows_of(found / "frames.csv", FRAME_COLUMNS)):
        if index.outdated[at]:
            continue
        frame, sample = row[0], samples(row[0])
        name, count, near = names[sample], index.counted[at], index.near[at]
        if index.failed[at]:
            failed.add(0.0, at, frame, name, counted=None, near_threshold=None)
            continue
        if near:
            close.add(near, at, frame, name, counted=count, near_threshold=near)
        median, spread = usual[sample]
        if abs(count - median) > 3 * spread:
            far = abs(count - median) / spread
            unusual.add(far, at, frame, name, counted=count, near_threshold=near)
    return [*failed.rows(), *close.rows(), *unusual.rows()]


def _median_and_spread(tally: SampleTally) -> tuple[float, float]:
    """Of the frames' counts."""
    counts = tally.frame_counts(tally.every, by_area=False)
    if not len(counts.count):
        return 0.0, 1.0
    median = _weighted_median(counts.count.astype(float), counts.frames)
    off = _weighted_median(np.abs(counts.count - median), counts.frames)
    return median, max(1.4826 * off, math.sqrt(median), 1.0)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
