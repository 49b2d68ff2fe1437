"""How far two means over seeds lie apart: what the luck of trainings leaves open.

A paired test holds the trainings and draws other samples; this holds the samples and asks for other
trainings.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def welch_interval(
    ours: Sequence[float], theirs: Sequence[float], level: float = 0.95
) -> list[float] | None:
    """Interval of mean(ours) - mean(theirs), of independent runs (Welch, Biometrika 1947).

        d ± t · √(s₁²/n₁ + s₂²/n₂)

    with s the sample standard deviations, and t the quantile of Student's distribution with
    (v₁ + v₂)² / (v₁²/(n₁ − 1) + v₂²/(n₂ − 1)) degrees of freedom, v = s²/n. None where a side has
    fewer than two runs, for one tells nothing of its spread.
    """
    from scipy.stats import t

    if min(len(ours), len(theirs)) < 2:
        return None
    difference = statistics.mean(ours) - statistics.mean(theirs)
    v, w = (statistics.variance(side) / len(side) for side in (ours, theirs))
    if v + w == 0:
        return [difference, difference]
    freedom = (v + w) ** 2 / (v**2 / (len(ours) - 1) + w**2 / (len(theirs) - 1))
    reach = float(t.ppf((1 + level) / 2, freedom)) * math.sqrt(v + w)
    return [difference - reach, difference + reach]
