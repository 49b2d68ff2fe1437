"""Whether the frame tells which class is on it.

A detector learns whatever tells classes apart. Where one class was taken in frames of a size or
shape of their own, these tell it as well as the object does, by the padding in a batch or by how
far a frame was shrunk; and then it is not found in frames of another shape.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable

from detkd.data.records import Problem, noted

SURE = 0.95  # of the frames of a class, and of those of the others
ENOUGH = 10  # frames, of both, below which it may be chance


class FrameWatch:
    """Counts frames by size and by shape, and those of each class among them."""

    def __init__(self) -> None:
        self.frames: Counter[str] = Counter()
        self.of_class: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.total = 0
        self.of: Counter[str] = Counter()

    def look(self, width: int, height: int, labels: Iterable[str]) -> None:
        """Count a frame and the classes on it."""
        self.total += 1
        kinds = (f"{width}x{height} px", f"a width of {width / height:.2f} heights")
        self.frames.update(kinds)
        for label in set(labels):
            self.of[label] += 1
            self.of_class[label].update(kinds)

    def notes(self) -> list[Problem]:
        """The classes that their frames tell."""
        found = []
        for label, its in sorted(self.of.items()):
            others = self.total - its
            if min(its, others) < ENOUGH:
                continue
            for kind, count in self.of_class[label].most_common(2):  # the size, or else the shape
                among_others = self.frames[kind] - count
                if count >= SURE * its and among_others <= (1 - SURE) * others:
                    message = (
                        f"{count} of the {its} frames with '{label}' have {kind}, and "
                        f"{among_others} of the {others} without it: a detector may learn the "
                        "frame in its place"
                    )
                    found.append(noted("class told by frame", None, "classes", message))
                    break
        return found
