"""Watching that no distillation term drowns the task."""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Mapping

from detkd.distill.teaching import of_student, of_task
from detkd.errors import UserError

WINDOW = 50  # steps whose mean is looked at
TOO_MUCH = 10.0  # times the task loss
TOO_HARD = 3.0  # times as hard as the task, at the backbone's outputs


class Watch:
    """Raises a diagnosis once a term is more than ten times the task loss, and pulls harder.

    The size alone says little: the squared distance of large features is large, and may pull less
    than the task. Where pulls are not measured, it is all that is known.

    A classifier that has learned its images has a task loss near 0, and its terms drown nothing:
    they are held against what guessing costs, ln K of K classes, as long as the task costs less.

    Args:
        after: steps that do not count: weights and rates are still growing.
        guessing: what the task is taken to cost at least, at a step.
    """

    def __init__(self, after: int, guessing: float = 0.0) -> None:
        self.after, self.guessing = after, guessing
        self.seen: deque[Mapping[str, float]] = deque(maxlen=WINDOW)
        self.pulls: dict[str, float] = {}

    def measured(self, report: Mapping[str, float]) -> None:
        """Take note of how hard terms pulled, as shares of the task's: `pull/hint`."""
        self.pulls |= {
            name.removeprefix("pull/"): value
            for name, value in report.items()
            if name.startswith("pull/")
        }

    def look(self, losses: Mapping[str, float], step: int) -> None:
        """Take note of a step's losses by name.

        Steps in which the task does not count yet have nothing to be drowned.

        Raises:
            UserError: a term was too great for the last 50 steps.
        """
        if step < self.after:
            return
        if not any(value for name, value in losses.items() if of_task(name)):
            self.seen.clear()
            return
        self.seen.append(losses)
        if len(self.seen) < WINDOW:
            return
        sums: defaultdict[str, float] = defaultdict(float)
        for each in self.seen:
            for name, value in each.items():
                if of_student(name) or not of_task(name):
                    sums["task" if of_task(name) else name.partition("@")[0]] += value
        task = sums.pop("task")
        least = self.guessing * WINDOW
        held, called = (task, "the task loss") if task >= least else (least, "what guessing costs")
        for name, total in sums.items():
            if total > TOO_MUCH * held and self.pulls.get(name, math.inf) > TOO_HARD:
                raise UserError(
                    f"step {step}: the term '{name}' was {total / held:.0f} times {called} "
                    f"over the last {WINDOW} steps and drowns the task. Divide its weight by "
                    f"{total / held:.0f} or more; --suggest-weights measures what suits, and "
                    "distill.balance: auto with a weight of 0.5 keeps to it."
                )
