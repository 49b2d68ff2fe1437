"""What a class is taken for: a shape and a depth, and so the volume of its cells."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.shapes import SHAPES, USUAL_SHAPE, named_shape
from detkd.deploy.counting.tables import MOST, number_of, read_table
from detkd.deploy.counting.wording import shown


@dataclass(frozen=True)
class Body:
    """A shape, its depth as a share of its width (None: the usual one), and where that was said."""

    shape: str = USUAL_SHAPE
    depth_ratio: float | None = None
    said_by: str = "default"

    def volume(
        self, sides_px: tuple[float, float], um_per_px: float, usual_depth_ratio: float
    ) -> float:
        """Volume in µm³ of a cell in a box of these sides, in any order."""
        longer, shorter = max(sides_px) * um_per_px, min(sides_px) * um_per_px
        ratio = usual_depth_ratio if self.depth_ratio is None else self.depth_ratio
        return SHAPES[self.shape](longer, shorter, ratio * shorter)


def read_shapes(path: Path) -> dict[str, Body]:
    """Bodies by class, of a CSV of class, shape and, where it differs, depth_ratio.

    Raises:
        CountingError: not that.
    """
    bodies: dict[str, Body] = {}
    _, lines = read_table(path, ("class", "shape"), ("depth_ratio",))
    for where, cells in lines:
        label, ratio = cells["class"], cells.get("depth_ratio", "").strip()
        if label in bodies:
            raise CountingError(f"{where}: names class '{shown(label)}' again; keep one line.")
        share = number_of(ratio, where, "depth_ratio") if ratio else None
        if share is not None and not 0 < share < MOST:
            raise CountingError(f"{where}: depth_ratio {share:g} makes no sense; give above 0.")
        bodies[label] = Body(named_shape(cells["shape"], where), share, path.name)
    return bodies
