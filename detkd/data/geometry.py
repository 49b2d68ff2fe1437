"""Shapes that are no boxes, as boxes and as the rings of points that COCO's segmentation holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

Point = tuple[float, float]
Box = tuple[float, float, float, float]


def around(points: Sequence[Point]) -> Box:
    """The box (xmin, ymin, xmax, ymax) around points."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs), max(ys)


def ring(points: Sequence[Point]) -> list[float]:
    """Points as COCO's segmentation has them: x, y, x, y, ..."""
    return [value for point in points for value in point]


def rings_of(segmentation: object) -> list[list[float]]:
    """The rings of a segmentation that are some: three points and more, of finite numbers."""
    rings = segmentation if isinstance(segmentation, list) else []
    found = [finite(each) for each in rings if isinstance(each, list)]
    return [each for each in found if each is not None and len(each) >= 6 and len(each) % 2 == 0]


def turned(box: Box, degrees: float, pivot: Point | None = None) -> list[Point]:
    """Corners of a box turned clockwise (y points down) around its centre, or around `pivot`."""
    xmin, ymin, xmax, ymax = box
    cx, cy = pivot or ((xmin + xmax) / 2, (ymin + ymax) / 2)
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    corners = ((xmin, ymin), (xmax, ymin), (xmax, ymax), (xmin, ymax))
    return [
        (cx + (x - cx) * cos - (y - cy) * sin, cy + (x - cx) * sin + (y - cy) * cos)
        for x, y in corners
    ]


def around_ellipse(box: Box, degrees: float) -> Box:
    """The box around the ellipse that fills `box`, when it is turned around its centre."""
    xmin, ymin, xmax, ymax = box
    cx, cy = (xmin + xmax) / 2, (ymin + ymax) / 2
    rx, ry = (xmax - xmin) / 2, (ymax - ymin) / 2
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    w, h = math.hypot(rx * cos, ry * sin), math.hypot(rx * sin, ry * cos)
    return cx - w, cy - h, cx + w, cy + h


def displayed(points: Sequence[Point], size: tuple[int, int], orientation: int) -> list[Point]:
    """Points of an image as it is stored (`size`), in the frame that its EXIF orientation shows."""
    w, h = size
    move: dict[int, Callable[[float, float], Point]] = {
        2: lambda x, y: (w - x, y),
        3: lambda x, y: (w - x, h - y),
        4: lambda x, y: (x, h - y),
        5: lambda x, y: (y, x),
        6: lambda x, y: (h - y, x),
        7: lambda x, y: (h - y, w - x),
        8: lambda x, y: (y, w - x),
    }
    return [move[orientation](x, y) for x, y in points] if orientation in move else list(points)


def finite(values: Sequence[object]) -> list[float] | None:
    """Numbers, or texts of numbers, as floats; None if one of them is none, or not finite."""
    try:
        numbers = [float(value) for value in values if not isinstance(value, bool)]  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    sound = len(numbers) == len(values) and all(map(math.isfinite, numbers))
    return numbers if sound else None
