"""Intervals of a count: exact ones of Poisson's, and the bootstrap's over frames."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from detkd.deploy.counting.distributions import gamma_quantile, gamma_tails, student_quantile


def poisson_interval(count: int, level: float) -> tuple[float, float]:
    """Exact limits of a Poisson mean (Garwood, Biometrika 28, 1936).

    With α = 1 − level:  χ²(α/2; 2n)/2 (0 for n = 0)  to  χ²(1 − α/2; 2n + 2)/2.
    """
    tail = (1 - level) / 2
    low = gamma_quantile(count, tail, upper=False) if count else 0.0
    return low, gamma_quantile(count + 1, tail, upper=True)


@dataclass(frozen=True)
class FrameCounts:
    """How many frames have a count and an exposure: all that intervals need of the frames.

    `exposure` is the share of the water that a frame shows, in any unit: 1 where all show as much.
    Arrays [kinds of frames].
    """

    count: np.ndarray
    exposure: np.ndarray
    frames: np.ndarray

    @property
    def total(self) -> int:
        return int(self.count @ self.frames)


def dispersion(counts: FrameCounts) -> tuple[float, float] | None:
    """Variance over mean of the frames' counts, and the p-value of its being above 1.

    X² = Σ (x − μ)²/μ with μ = exposure · Σx/Σexposure; the index is X²/(n − 1), which with equal
    exposures is s²/x̄; the test is Fisher's, X² against χ² with n − 1 degrees of freedom. None where
    nothing was counted, or there are fewer than two frames.
    """
    frames = int(counts.frames.sum())
    if frames < 2 or not counts.total:
        return None
    mean = counts.exposure * counts.total / float(counts.exposure @ counts.frames)
    squares = float(((counts.count - mean) ** 2 / mean) @ counts.frames)
    return squares / (frames - 1), gamma_tails((frames - 1) / 2, squares / 2)[1]


def bootstrap_interval(
    counts: FrameCounts, level: float, draws: int, seed: Sequence[int]
) -> tuple[float, float] | None:
    """Expanded percentile interval (Hesterberg 2015) of the count, frames drawn with replacement.

    Drawing n of the frames is drawing how many of each kind there are, a multinomial. Each draw is
    brought to the exposure of all frames. The percentiles are Φ(∓√(n/(n−1)) t), t being Student's
    quantile with n − 1 degrees of freedom. None of fewer than two frames, or where nothing was
    counted: that no draw has an object says nothing.
    """
    frames = int(counts.frames.sum())
    if frames < 2 or not counts.total:
        return None
    generator = np.random.default_rng(list(seed))
    found = np.empty(draws)
    rows = max(1, 1_000_000 // len(counts.frames))
    for at in range(0, draws, rows):
        size = min(rows, draws - at)
        drawn = generator.multinomial(frames, counts.frames / frames, size=size)
        found[at : at + size] = drawn @ counts.count / (drawn @ counts.exposure)
    found *= float(counts.exposure @ counts.frames)
    far = math.sqrt(frames / (frames - 1)) * student_quantile((1 + level) / 2, frames - 1)
    outside = 100 * NormalDist().cdf(-far)
    low, high = np.percentile(found, [outside, 100 - outside]).tolist()
    return low, high


@dataclass(frozen=True)
class Interval:
    """Limits of a count, how they were found, and the frames' index of dispersion with its p."""

    low: float
    high: float
    method: str
    index: float | None
    p: float | None


OVERDISPERSED = 0.05  # p from which on a Poisson interval is believed


def interval_of(
    counts: FrameCounts, *, method: str, level: float, draws: int, seed: Sequence[int]
) -> Interval:
    """The interval of a count by `method`: poisson, bootstrap, or auto.

    auto is Poisson's, unless the frames' counts vary more than Poisson's would (`dispersion`, p
    below 0.05): then the bootstrap's, where it is wider.
    """
    low, high = poisson_interval(counts.total, level)
    index, p = dispersion(counts) or (None, None)
    wide = p is not None and p < OVERDISPERSED
    drawn = None
    if method == "bootstrap" or (method == "auto" and wide):
        drawn = bootstrap_interval(counts, level, draws, seed)
    if drawn is None:
        return Interval(low, high, "poisson", index, p)
    if method == "auto":
        drawn = min(low, drawn[0]), max(high, drawn[1])
    return Interval(*drawn, "bootstrap", index, p)
