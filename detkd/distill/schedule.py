"""When a distillation term counts, and how much."""

from __future__ import annotations

import math
from collections.abc import Sequence

from detkd.config import ScheduleConfig, TermConfig


def factor(schedule: ScheduleConfig, step: int, steps: int) -> float:
    """Factor on a term's weight at `step` of `steps` (counted from 0); 0 means that it is off.

    Off before `start` and from `stop` on; a linear warm-up after the start; with a decay the
    weight falls to 0 at the stop. With `every: n` it counts at each n-th step, n-fold.
    """
    first, end = round(schedule.start * steps), round(schedule.stop * steps)
    over = step >= end and schedule.stop < 1
    if step < first or over or (step - first) % schedule.every:
        return 0.0
    grown = min(1.0, (step - first) / schedule.warmup) if schedule.warmup else 1.0
    progress = min(1.0, (step - first) / max(1, end - first))
    left = {
        "none": 1.0,
        "linear": 1.0 - progress,
        "cosine": 0.5 * (1.0 + math.cos(math.pi * progress)),
    }[schedule.decay]
    return grown * left * schedule.every


def idle_from(terms: Sequence[TermConfig], until: float) -> float | None:
    """The share of the training from which on no term counts, before `until`; None if one does."""
    at = 0.0
    for schedule in sorted((term.schedule for term in terms), key=lambda each: each.start):
        if schedule.start > at:
            break
        at = max(at, schedule.stop)
    return at if at < until else None
