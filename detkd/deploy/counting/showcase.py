"""The cells of each class that the page shows: the surest ones, and some at random."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import dataclass

BEST, RANDOM = 4, 4  # cells a class


@dataclass(order=True, frozen=True)
class Cell:
    """A detection that may be shown, in order of score; `size` is the frame's width and height."""

    score: float
    frame: str
    box: tuple[float, float, float, float]
    size: tuple[int, int]


class Showcase:
    """Of each class the cells of the highest scores, and some at random; seeded."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.best: dict[str, list[Cell]] = {}
        self.drawn: dict[str, list[Cell]] = {}
        self.seen: Counter[str] = Counter()
        self.random: dict[str, random.Random] = {}

    def add(self, label: str, cell: Cell) -> None:
        """Keep the cell, perhaps, in place of another one."""
        best = self.best.setdefault(label, [])
        if len(best) < BEST:
            heapq.heappush(best, cell)
        else:
            heapq.heappushpop(best, cell)
        self.seen[label] += 1
        drawn = self.drawn.setdefault(label, [])
        if len(drawn) < RANDOM:  # reservoir sampling: each cell is kept with equal probability
            drawn.append(cell)
            return
        if label not in self.random:
            self.random[label] = random.Random(f"{self.seed} {label}")
        at = self.random[label].randrange(self.seen[label])
        if at < RANDOM:
            drawn[at] = cell

    def chosen(self, label: str) -> list[Cell]:
        """The best cells of a class, the first one first, then those drawn of the others."""
        best = sorted(self.best.get(label, []), reverse=True)
        return best + [cell for cell in self.drawn.get(label, []) if cell not in best]
