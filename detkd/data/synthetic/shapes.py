"""Shapes of cells: each draws the optical density of one specimen on a small canvas.

Coordinates are in units of the specimen's length, origin in its middle, before it is turned.
Density 1 is the darkest line. To add a shape, write a function and list it in `SHAPES`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np

FINE = 3  # canvas px per px of the scene, averaged at the end
WALL, BODY, FAINT = 0.85, 0.3, 0.14


class Canvas:
    """Density of one specimen, drawn finely, turned by `angle`."""

    def __init__(self, length: float, angle: float) -> None:
        self.unit = length * FINE
        self.half = int(np.ceil(0.62 * length)) * FINE + 4 * FINE
        self.density = np.zeros((2 * self.half, 2 * self.half), np.float32)
        self.turn = np.array(
            [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]], np.float64
        )

    def _px(self, points: Any) -> np.ndarray:
        """Canvas px in cv2's 1/16 fixed point."""
        turned = np.asarray(points, dtype=np.float64).reshape(-1, 2) @ self.turn.T
        return np.round((turned * self.unit + self.half) * 16).astype(np.int32)

    def _add(self, layer: np.ndarray, density: float, *, mode: str) -> None:
        drawn = layer.astype(np.float32) * (density / 255)
        if mode == "max":
            np.maximum(self.density, drawn, out=self.density)
        else:
            self.density += drawn

    def fill(self, points: Any, density: float) -> None:
        layer = np.zeros(self.density.shape, np.uint8)
        cv2.fillPoly(layer, [self._px(points)], 255, cv2.LINE_AA, 4)
        self._add(layer, density, mode="max")

    def line(self, points: Any, density: float, width: float, *, closed: bool = False) -> None:
        """`width` is in px of the scene: walls and spines do not grow with the cell."""
        layer = np.zeros(self.density.shape, np.uint8)
        thickness = max(1, round(width * FINE))
        cv2.polylines(layer, [self._px(points)], closed, 255, thickness, cv2.LINE_AA, 4)
        self._add(layer, density, mode="max")

    def lines(self, segments: list[Any], density: float, width: float) -> None:
        layer = np.zeros(self.density.shape, np.uint8)
        thickness = max(1, round(width * FINE))
        cv2.polylines(layer, [self._px(s) for s in segments], False, 255, thickness, cv2.LINE_AA, 4)
        self._add(layer, density, mode="max")

    def blob(self, centre: Any, radius: float, density: float) -> None:
        """A plastid: a small soft-edged disc on top of what is there."""
        layer = np.zeros(self.density.shape, np.uint8)
        x, y = self._px(centre)[0]
        cv2.circle(layer, (int(x), int(y)), int(radius * self.unit * 16), 255, -1, cv2.LINE_AA, 4)
        self._add(layer, density, mode="add")

    def cell(
        self, outline: Any, *, body: float = BODY, wall: float = WALL, width: float = 1.0
    ) -> None:
        self.fill(outline, body)
        self.line(outline, wall, width, closed=True)


def ellipse(a: float, b: float, *, n: int = 40) -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.stack([a * np.cos(t), b * np.sin(t)], axis=1)


def box(x: float, y: float, w: float, h: float) -> np.ndarray:
    return np.array([[x - w, y - h], [x + w, y - h], [x + w, y + h], [x - w, y + h]])


def plastids(c: Canvas, rng: np.random.Generator, count: int, a: float, b: float, r: float) -> None:
    for _ in range(count):
        angle, share = rng.uniform(0, 2 * np.pi), np.sqrt(rng.uniform(0, 0.75))
        c.blob((a * share * np.cos(angle), b * share * np.sin(angle)), r, rng.uniform(0.15, 0.35))


def disc(c: Canvas, rng: np.random.Generator, *, ribs: int) -> None:
    """Centric diatom in valve view: radial ribs, a rosette, plastids around."""
    c.cell(ellipse(0.5, 0.5), body=0.22, width=1.6)
    c.line(ellipse(0.45, 0.45), 0.4, 0.6, closed=True)
    rays = rng.uniform(0, 6.28) + np.linspace(0, 2 * np.pi, ribs, endpoint=False)
    directions = np.stack([np.cos(rays), np.sin(rays)], axis=1)
    starts = np.where(np.arange(ribs) % 2, 0.28, 0.1)[:, None]
    c.lines(list(np.stack([directions * starts, directions * 0.45], axis=1)), 0.38, 0.34)
    for radius in (0.18, 0.32):
        c.line(ellipse(radius, radius), 0.3, 0.34, closed=True)
    c.line(ellipse(0.06, 0.06), 0.6, 0.6, closed=True)
    plastids(c, rng, 14, 0.5, 0.5, 0.04)


def flank(c: Canvas, rng: np.random.Generator) -> None:
    """The same frustule from the side: a low drum with rounded ends and a girdle."""
    h = rng.uniform(0.16, 0.26)
    t = np.linspace(0, 2 * np.pi, 60, endpoint=False)
    outline = np.stack(
        [
            0.5 * np.sign(np.cos(t)) * np.abs(np.cos(t)) ** 0.35,
            h * np.sign(np.sin(t)) * np.abs(np.sin(t)) ** 0.6,
        ],
        axis=1,
    )
    c.cell(outline, body=0.25, width=1.4)
    c.lines([[(-0.49, y), (0.49, y)] for y in (-0.05, 0.05)], 0.5, 0.7)
    c.lines([[(x, -h * 0.9), (x, h * 0.9)] for x in np.linspace(-0.42, 0.42, 16)], 0.3, 0.34)
    plastids(c, rng, 10, 0.42, h, 0.035)


def pennate(c: Canvas, rng: np.random.Generator, *, width: float, bend: float = 0.0) -> None:
    """Boat shape with raphe and striae; `bend` makes it a sigmoid."""
    x = np.linspace(-0.5, 0.5, 30)
    half = 0.5 * width * np.cos(np.pi * x) ** 0.75
    middle = bend * 0.1 * np.sin(2 * np.pi * x)
    outline = np.concatenate(
        [np.stack([x, middle + half], 1), np.stack([x, middle - half], 1)[::-1]]
    )
    c.cell(outline, body=0.24, width=1.2)
    at = slice(3, -3)
    top = np.stack([x, middle + half * 0.85], 1)[at]
    low = np.stack([x, middle - half * 0.85], 1)[at]
    c.lines(list(np.stack([top, low], axis=1)), 0.34, 0.34)
    c.line(np.stack([x, middle], 1), 0.6, 0.6)
    c.blob((0, 0), 0.05, 0.3)
    for side in (-0.22, 0.22):
        plastid = ellipse(0.16, 0.5 * width * 0.4)
        c.fill(plastid + np.array([side, np.interp(side, x, middle)]), 0.5)


def _along(bend: float, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Centres and directions of `count` links on an arc of unit length."""
    curve = bend * rng.uniform(0.5, 1.0) * rng.choice([-1, 1])
    s = (np.arange(count) + 0.5) / count - 0.5
    angle = curve * s
    if abs(curve) < 1e-3:
        return np.stack([s, np.zeros(count)], 1), angle
    centre = np.stack([np.sin(angle) / curve, (1 - np.cos(angle)) / curve], 1)
    return centre - centre.mean(axis=0), angle


def _turned(points: np.ndarray, angle: float, at: np.ndarray) -> np.ndarray:
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points @ rotation.T + at


def chain(
    c: Canvas, rng: np.random.Generator, *, cell: str, gap: float = 0.2, bend: float = 0.3
) -> None:
    """Cells in a row: beads on threads, boxes, long tubes, or horned cells with windows between."""
    count = int(rng.integers(4, 9)) if cell != "tube" else int(rng.integers(2, 5))
    centres, angles = _along(bend, count, rng)
    half = 0.5 / count * (1 - gap)
    tall = (
        {"bead": 0.5, "box": 0.75, "tube": 0.4, "horned": 0.9}[cell]
        / (count if cell != "tube" else 2.2)
        / 1.2
    )
    for at, angle in zip(centres, angles, strict=True):
        if cell == "bead":
            outline = ellipse(half, tall, n=20)
        elif cell == "horned":
            x = np.linspace(-1, 1, 9)
            edge = tall * (0.55 + 0.45 * x**2)
            outline = np.concatenate(
                [np.stack([x * half * 1.2, edge], 1), np.stack([x * half * 1.2, -edge], 1)[::-1]]
            )
        else:
            outline = box(0, 0, half, tall)
        c.cell(_turned(outline, angle, at), body=0.28, width=1.0)
        c.blob(at, min(half, tall) * 0.6, 0.3)
    if cell == "bead":
        for y in (-0.5, 0, 0.5):
            c.line(
                [
                    _turned(np.array([[0, y * tall]]), a, p)[0]
                    for p, a in zip(centres, angles, strict=True)
                ],
                0.5,
                0.5,
            )


def spined_chain(c: Canvas, rng: np.random.Generator, *, spines: float) -> None:
    """Chain whose cells cross long, curved spines with their neighbours'."""
    count = int(rng.integers(4, 8))
    centres, angles = _along(0.3, count, rng)
    centres = centres * 0.86
    half, tall = 0.36 / count, 0.075
    for at, angle in zip(centres, angles, strict=True):
        c.cell(_turned(box(0, 0, half, tall), angle, at), body=0.32, width=1.0)
        c.blob(at, half * 0.7, 0.3)
    for at, angle in zip(centres, angles, strict=True):
        for x in (-1, 1):
            for y in (-1, 1):
                lean = x * rng.uniform(0.05, 0.14) + 0.25 * at[0]
                reach = spines * rng.uniform(0.22, 0.34)
                t = np.linspace(0, 1, 8)[:, None]
                spine = np.concatenate([x * half + lean * t**1.5, y * (tall + reach * t)], 1)
                c.line(_turned(spine, angle, at), 0.42, 0.5)


def corethron(c: Canvas, rng: np.random.Generator) -> None:
    """A tube with domed ends and a crown of barbed spines at each."""
    c.cell(ellipse(0.2, 0.085), body=0.28, width=1.2)
    plastids(c, rng, 10, 0.18, 0.07, 0.025)
    for end in (-1, 1):
        for angle in np.linspace(-0.9, 0.9, 9) + rng.normal(0, 0.05, 9):
            start = np.array([end * 0.17, 0.07 * np.sin(angle)])
            stop = start + 0.32 * np.array([end * np.cos(angle), np.sin(angle)])
            c.line([start, stop], 0.4, 0.45)


def ditylum(c: Canvas, rng: np.random.Generator) -> None:
    """A prism with a spine at each end."""
    h = rng.uniform(0.08, 0.13)
    c.cell(box(0, 0, 0.26, h), body=0.24, width=1.1)
    c.lines([[(x, -h), (x, h)] for x in (-0.22, 0.22)], 0.5, 0.6)
    for end in (-1, 1):
        c.line([(end * 0.26, 0), (end * 0.5, 0)], 0.6, 0.7)
        c.lines([[(end * 0.26, y), (end * 0.29, y)] for y in np.linspace(-h, h, 6)], 0.5, 0.4)
    plastids(c, rng, 12, 0.2, h, 0.025)
    c.blob((0, 0), 0.05, 0.3)


def biddulphia(c: Canvas, rng: np.random.Generator) -> None:
    """A barrel with two blunt horns and two spines at each end."""
    h = rng.uniform(0.2, 0.28)
    outline = []
    for end in (-1, 1):
        side = [(0.3, h), (0.42, h), (0.3, 0.45 * h), (0.3, -0.45 * h), (0.42, -h), (0.3, -h)]
        outline += [(end * x, end * y) for x, y in side]
    c.cell(outline, body=0.26, width=1.2)
    for end in (-1, 1):
        c.lines([[(end * 0.3, y * h), (end * 0.5, y * h * 1.2)] for y in (-0.4, 0.4)], 0.5, 0.5)
    plastids(c, rng, 16, 0.28, h, 0.03)


def ceratium(c: Canvas, rng: np.random.Generator, *, kind: str) -> None:
    """Armoured dinoflagellate: a body with a girdle, one horn ahead and two behind."""
    spread, body, ahead, curl = {
        "tripos": (0.3, 0.15, 0.42, 1.0),
        "furca": (0.08, 0.12, 0.45, 0.0),
        "fusus": (0.02, 0.055, 0.5, 0.0),
        "trichoceros": (0.36, 0.08, 0.5, 1.3),
        "carriense": (0.46, 0.1, 0.5, 0.5),
    }[kind]
    c.cell(ellipse(body, body * 0.85, n=14), body=0.5, width=1.3)
    c.line([(0, -body * 0.85), (0, body * 0.85)], 0.8, 0.9)
    c.blob((0.02, 0.01), body * 0.5, 0.25)
    thick = 1.6
    c.line([(body * 0.7, 0), (ahead, rng.normal(0, 0.01))], 0.7, thick)
    t = np.linspace(0, 1, 14)
    for side in (-1, 1):
        if kind == "fusus":
            if side > 0:
                c.line([(-body * 0.7, 0), (-0.5, rng.normal(0, 0.02))], 0.7, thick)
            continue
        if curl:  # the horns go out sideways and bend forward
            x = -body * 0.7 - 0.06 * np.sin(np.pi * t) + curl * 0.36 * t**2
            y = side * (body * 0.4 + spread * np.sin(0.5 * np.pi * t))
        else:
            long = 0.38 if side > 0 else 0.27
            x, y = -body * 0.6 - long * t, side * (body * 0.5 + spread * 0.2 * t)
        c.line(np.stack([x, y], 1), 0.65, thick)


def dinophysis(c: Canvas, rng: np.random.Generator) -> None:
    """An oval with a tail, a collar and a sail."""
    c.cell(ellipse(0.26, 0.19) + np.array([-0.1, 0]), body=0.45, width=1.3)
    c.fill([(0.05, 0.15), (0.5, 0.04), (0.48, -0.05), (0.08, -0.12)], 0.45)
    c.line([(0.05, 0.15), (0.5, 0.04), (0.48, -0.05), (0.08, -0.12)], 0.8, 1.0)
    c.fill([(-0.33, -0.05), (-0.48, -0.2), (-0.46, 0.22), (-0.33, 0.08)], FAINT)
    c.lines([[(-0.33, y), (-0.47, 3 * y)] for y in (-0.06, -0.02, 0.02, 0.06)], 0.45, 0.45)
    c.fill([(-0.28, -0.13), (-0.1, -0.34), (0.12, -0.12)], FAINT)
    c.lines([[(x, -0.14), (x, -0.28)] for x in (-0.18, -0.1, -0.02)], 0.4, 0.45)
    plastids(c, rng, 6, 0.2, 0.15, 0.04)


def needle(c: Canvas, rng: np.random.Generator, *, width: float) -> None:
    """A long tube that ends in two oblique points."""
    h = 0.5 * width
    c.cell(
        [(-0.5, -h), (-0.42, h), (0.42, h), (0.5, -h * 0.2), (0.42, -h), (-0.42, -h)],
        body=0.3,
        width=0.9,
    )
    c.lines([[(x, -h), (x + 0.02, h)] for x in np.linspace(-0.36, 0.36, 9)], 0.4, 0.4)
    for x in rng.uniform(-0.36, 0.36, 12):
        c.blob((x, rng.uniform(-h, h) * 0.5), 0.012, 0.35)


def star(c: Canvas, rng: np.random.Generator) -> None:
    """Rods joined at one end, spread like a fan."""
    count = int(rng.integers(4, 8))
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.normal(0, 0.15, count):
        tip = 0.5 * np.array([np.cos(angle), np.sin(angle)])
        c.line([tip * 0.06, tip], 0.6, 1.8)
        c.line([tip * 0.1, tip * 0.95], 0.35, 0.7)


def zigzag(c: Canvas, rng: np.random.Generator) -> None:
    """Rods joined at alternating ends."""
    count = int(rng.integers(4, 8))
    x = np.linspace(-0.46, 0.46, count + 1)
    y = np.where(np.arange(count + 1) % 2, 0.13, -0.13) + rng.normal(0, 0.015, count + 1)
    points = np.stack([x, y], 1)
    c.lines([points[at : at + 2] for at in range(count)], 0.6, 2.2)
    c.lines([points[at : at + 2] for at in range(count)], 0.9, 0.5)


def flagellate(c: Canvas, rng: np.random.Generator) -> None:
    """A round, plated cell with a girdle, two short horns and a flagellum."""
    c.cell(ellipse(0.42, 0.38, n=16), body=0.42, width=1.4)
    c.line([(0.02, -0.38), (0.05, 0), (0.02, 0.38)], 0.8, 1.3)
    for side in (-1, 1):
        c.fill([(-0.3, side * 0.12), (-0.5, side * 0.16), (-0.28, side * 0.26)], 0.5)
    c.fill([(0.36, -0.1), (0.5, 0), (0.36, 0.1)], 0.5)
    c.lines([[(0.4, 0), (0.05, y)] for y in (-0.25, 0, 0.25)], 0.5, 0.4)
    t = np.linspace(0, 1, 10)
    c.line(np.stack([-0.38 - 0.2 * t, 0.05 * np.sin(7 * t)], 1), 0.35, 0.5)
    plastids(c, rng, 5, 0.3, 0.3, 0.07)


def wheel(c: Canvas, rng: np.random.Generator) -> None:
    """A cell from its end, with forked spines all around."""
    c.cell(ellipse(0.12, 0.12), body=0.4, width=1.2)
    count = int(rng.integers(9, 14))
    for angle in np.linspace(0, 2 * np.pi, count, endpoint=False) + rng.uniform(0, 6.28):
        radial, across = (
            np.array([np.cos(angle), np.sin(angle)]),
            np.array([-np.sin(angle), np.cos(angle)]),
        )
        fork = 0.28 * radial
        c.line([0.12 * radial, fork], 0.5, 0.6)
        for side in (-1, 1):
            c.line([fork, 0.5 * radial + side * 0.05 * across], 0.4, 0.5)


def helix(c: Canvas, rng: np.random.Generator) -> None:
    """A twisted ribbon."""
    turns = rng.uniform(1.5, 2.5)
    x = np.linspace(-0.5, 0.5, 70)
    phase = 2 * np.pi * turns * x + rng.uniform(0, 6.28)
    upper, lower = 0.11 * np.cos(phase), -0.11 * np.cos(phase)
    c.fill(np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]]), 0.26)
    c.line(np.stack([x, upper], 1), 0.7, 1.1)
    c.line(np.stack([x, lower], 1), 0.7, 1.1)
    rungs = [[(x[k], upper[k] * 0.9), (x[k], lower[k] * 0.9)] for k in range(2, 70, 5)]
    c.lines(rungs, 0.42, 0.45)


SHAPES: dict[str, Callable[..., None]] = {
    shape.__name__: shape
    for shape in (
        disc,
        flank,
        pennate,
        chain,
        spined_chain,
        corethron,
        ditylum,
        biddulphia,
        ceratium,
        dinophysis,
        needle,
        star,
        zigzag,
        flagellate,
        wheel,
        helix,
    )
}


def draw(shape: str, length: float, rng: np.random.Generator, **options: Any) -> np.ndarray:
    """Optical density [h, w] of a specimen `length` px long, turned at random."""
    canvas = Canvas(length, rng.uniform(0, 2 * np.pi))
    SHAPES[shape](canvas, rng, **options)
    size = canvas.density.shape[0] // FINE
    return cv2.resize(canvas.density, (size, size), interpolation=cv2.INTER_AREA)
