"""Watching that no distillation term drowns the task."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Mapping

from detkd.errors import UserError

WINDOW = 50  # steps whose mean is looked at
TOO_MUCH = 10.0  # times the task loss


class Watch:
    """Raises a diagnosis once a term is more than ten times the task loss.

    Args:
        after: steps that do not count: weights and rates are still growing.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.seen: deque[Mapping[str, float]] = deque(maxlen=WINDOW)

    def look(self, losses: Mapping[str, float], step: int) -> None:
        """Take note of a step's losses by name.

        Raises:
            UserError: a term was too great for the last 50 steps.
        """
        if step < self.after:
            return
        self.seen.append(losses)
        if len(self.seen) < WINDOW:
            return
        sums: defaultdict[str, float] = defaultdict(float)
        for each in self.seen:
            for name, value in each.items():
                sums["task" if name.startswith("loss_") else name.partition("@")[0]] += value
        task = sums.pop("task")
        for name, total in sums.items():
            if task > 0 and total > TOO_MUCH * task:
                raise UserError(
                    f"step {step}: the term '{name}' was {total / task:.0f} times the task loss "
                    f"over the last {WINDOW} steps and drowns it. Divide its weight by "
                    f"{total / task:.0f} or more; --suggest-weights measures what suits, and "
                    "distill.balance: auto keeps to it."
                )
