#!/usr/bin/env python3
"""From detections to cells per litre: counts with intervals, sizes, biovolumes, one page.

    python counting.py FOUND --out counts --chamber-depth-um 100 --um-per-px 0.5

FOUND is the folder that a run over images has written (frames.csv, results.csv, run.json). OUT gets
counts.csv (frame by class), samples.csv (sample by class), counts.json and summary.html.

This file works alone, beside an exported model: it needs Python 3.10 and numpy, and for pictures
Pillow or OpenCV. Frames are streamed: of each, some 60 bytes are kept.
"""

from __future__ import annotations

import argparse
import base64
import csv
import difflib
import hashlib
import heapq
import html
import io
import json
import math
import os
import posixpath
import random
import re
import shutil
import sys
import tempfile
import warnings
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from statistics import NormalDist
from typing import IO, Any, NoReturn

import numpy as np


class CountingError(Exception):
    """Something that the person at the keyboard can mend, said in one sentence."""


# ---------------------------------------------------------------------------------------------
# Biovolume: l is the longer side of the box, w the shorter one, t the depth that no picture shows,
# in µm. Formulas of Hillebrand et al., J. Phycol. 35, 1999, and Sun and Liu, J. Plankton Res. 25,
# 2003, written for what a box gives. Solids of revolution have no depth of their own.


def sphere(length: float, width: float, depth: float) -> float:
    """π/6 d³, d = √(l w)"""
    return math.pi / 6 * (length * width) ** 1.5


def half_sphere(length: float, width: float, depth: float) -> float:
    """π/12 l³, seen from the side"""
    return math.pi / 12 * length**3


def prolate_spheroid(length: float, width: float, depth: float) -> float:
    """π/6 l w²"""
    return math.pi / 6 * length * width**2


def oblate_spheroid(length: float, width: float, depth: float) -> float:
    """π/6 l² w, seen from the side"""
    return math.pi / 6 * length**2 * width


def ellipsoid(length: float, width: float, depth: float) -> float:
    """π/6 l w t"""
    return math.pi / 6 * length * width * depth


def cylinder(length: float, width: float, depth: float) -> float:
    """π/4 l w², a rod seen from the side"""
    return math.pi / 4 * length * width**2


def disc(length: float, width: float, depth: float) -> float:
    """π/4 l² w, a flat cylinder seen from the side"""
    return math.pi / 4 * length**2 * width


def disc_face(length: float, width: float, depth: float) -> float:
    """π/4 l w t, a flat cylinder of height t seen from above"""
    return math.pi / 4 * length * width * depth


def capsule(length: float, width: float, depth: float) -> float:
    """π w² (l/4 − w/12), a cylinder with two half spheres, l with them"""
    return math.pi * width**2 * (length / 4 - width / 12)


def cylinder_two_cones(length: float, width: float, depth: float) -> float:
    """π/4 w² (l − 2w/3), a cylinder with two cones of height w/2, l with them"""
    return math.pi / 4 * width**2 * (length - 2 * width / 3)


def cone(length: float, width: float, depth: float) -> float:
    """π/12 l w²"""
    return math.pi / 12 * length * width**2


def double_cone(length: float, width: float, depth: float) -> float:
    """π/12 l w², two cones base to base, l from tip to tip"""
    return math.pi / 12 * length * width**2


def cone_half_sphere(length: float, width: float, depth: float) -> float:
    """π/12 w² (l + w/2), a half sphere on a cone, l with both"""
    return math.pi / 12 * width**2 * (length + width / 2)


def box(length: float, width: float, depth: float) -> float:
    """l w t"""
    return length * width * depth


def elliptic_prism(length: float, width: float, depth: float) -> float:
    """π/4 l w t, in whatever view"""
    return math.pi / 4 * length * width * depth


def half_elliptic_prism(length: float, width: float, depth: float) -> float:
    """π/4 l w t, on half an ellipse of half-axes l/2 and w"""
    return math.pi / 4 * length * width * depth


def triangular_prism(length: float, width: float, depth: float) -> float:
    """√3/4 l w², on an equilateral triangle of side w"""
    return math.sqrt(3) / 4 * length * width**2


def parallelogram_prism(length: float, width: float, depth: float) -> float:
    """1/2 l w t"""
    return length * width * depth / 2


def biconcave_disc(length: float, width: float, depth: float) -> float:
    """0.1966 d³, d = √(l w): a red blood cell of 7.82 µm has 94 µm³ (Evans and Fung 1972)"""
    return 94 / 7.82**3 * (length * width) ** 1.5


Shape = Callable[[float, float, float], float]
SHAPES: dict[str, Shape] = {
    shape.__name__: shape
    for shape in (
        *(sphere, half_sphere, prolate_spheroid, oblate_spheroid, ellipsoid),
        *(cylinder, disc, disc_face, capsule, cylinder_two_cones),
        *(cone, double_cone, cone_half_sphere),
        *(box, elliptic_prism, half_elliptic_prism, triangular_prism, parallelogram_prism),
        biconcave_disc,
    )
}
USUAL_SHAPE = "prolate_spheroid"
# Names of the same bodies in the lists of HELCOM (Olenina et al. 2006) and Hillebrand et al.
ALIASES = {
    "rotational_ellipsoid": "prolate_spheroid",
    "flattened_ellipsoid": "ellipsoid",
    "oval_cylinder": "elliptic_prism",
    "prism_on_elliptic_base": "elliptic_prism",
    "half_prism_on_elliptic_base": "half_elliptic_prism",
    "parallelepiped": "box",
    "rectangular_box": "box",
    "prism_on_triangle_base": "triangular_prism",
    "prism_on_parallelogram_base": "parallelogram_prism",
    "two_cones": "double_cone",
    "2_cones": "double_cone",
    "cylinder_2_half_spheres": "capsule",
    "cylinder_2_cones": "cylinder_two_cones",
}


def named_shape(name: str, where: str) -> str:
    """The name that SHAPES has for it.

    Raises:
        CountingError: there is no such shape.
    """
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    plain = ALIASES.get(plain, plain)
    if plain in SHAPES:
        return plain
    near = difflib.get_close_matches(plain, SHAPES, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(SHAPES)}."
    raise CountingError(f"{where}: no shape '{shown(name)}'; {hint}")


def equivalent_diameter(volume: float) -> float:
    """Diameter of the sphere of the same volume: ESD = (6V/π)^(1/3)."""
    return float((6 * volume / math.pi) ** (1 / 3))


# ---------------------------------------------------------------------------------------------
# Intervals of a count.


def gamma_tails(shape: float, x: float) -> tuple[float, float]:
    """P and Q, the regularised incomplete gamma functions, P(a, x) + Q(a, x) = 1.

    Below a + 1 by the series of P, above by the continued fraction of Q (Lentz's algorithm), as in
    Press et al., Numerical Recipes, 6.2.
    """
    if x <= 0:
        return 0.0, 1.0
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        at = shape
        while term > total * 1e-17:
            at += 1
            term *= x / at
            total += term
        below = min(1.0, front * total)
        return below, 1 - below
    tiny = 1e-300
    b = x + 1 - shape
    c, d = 1 / tiny, 1 / b
    fraction = d
    step, change = 0, 0.0
    while abs(change - 1) > 4e-16:
        step += 1
        a = -step * (step - shape)
        b += 2
        d = a * d + b
        d = 1 / (d if abs(d) > tiny else tiny)
        c = b + a / c
        c = c if abs(c) > tiny else tiny
        change = c * d
        fraction *= change
    above = min(1.0, front * fraction)
    return 1 - above, above


def gamma_quantile(shape: float, tail: float, *, upper: bool) -> float:
    """The x with P(a, x) = tail, or with Q(a, x) = tail for the upper one.

    Newton's steps from Wilson and Hilferty's approximation, inside a bracket that halves where a
    step would leave it.
    """
    z = NormalDist().inv_cdf(1 - tail if upper else tail)
    start = shape * (1 - 1 / (9 * shape) + z / (3 * math.sqrt(shape))) ** 3
    x = start if start > 0 else shape / 2
    low, high = 0.0, math.inf
    for _ in range(200):
        below, above = gamma_tails(shape, x)
        off = tail - above if upper else below - tail
        low, high = (x, high) if off < 0 else (low, x)
        log_density = (shape - 1) * math.log(x) - x - math.lgamma(shape)
        step = off * math.exp(min(700.0, -log_density))
        there = x - step
        if not low < there < high:
            there = (low + high) / 2 if high < math.inf else 2 * x
        if abs(there - x) <= 1e-14 * x:
            return there
        x = there
    return x


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


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


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


# ---------------------------------------------------------------------------------------------
# Water: how much of it the frames show, and what was done to it before.

ML_PER_UM3 = 1e-12
UM3_PER_MM3 = 1e9
MOST = 1e12  # of any number that a person gives; more is a mistake


@dataclass(frozen=True)
class Water:
    """What is known of a sample's volume; None where it is not.

    Imaged volume V, in mL, of the n frames that could be read, of all N:

        frame_volume_ml   V = n · frame volume
        chamber_depth_um  V = Σ width · height · scale² · depth · 1e-12,  px, µm a px, µm
        volume_ml         V = volume of the whole sample · n/N

    Of k cells counted there are, in a mL of the water that was taken,

        c = k/V · dilution · concentrate_ml/settled_ml

    where the sample was diluted 1:dilution, and settled_ml of water were concentrated (settled,
    filtered) to concentrate_ml.
    """

    frame_volume_ml: float | None = None
    chamber_depth_um: float | None = None
    volume_ml: float | None = None
    dilution: float | None = None
    settled_ml: float | None = None
    concentrate_ml: float | None = None

    def imaged_ml(
        self, readable: Mapping[int, int], failed: int, um_per_px: float | None
    ) -> float | None:
        """V; `readable` has the number of frames by their area in px."""
        frames = sum(readable.values())
        if self.frame_volume_ml is not None:
            return frames * self.frame_volume_ml
        if self.chamber_depth_um is not None and um_per_px is not None:
            area = sum(pixels * number for pixels, number in readable.items())
            return area * um_per_px**2 * self.chamber_depth_um * ML_PER_UM3
        if self.volume_ml is not None and frames:
            return self.volume_ml * frames / (frames + failed)
        return None

    @property
    def factor(self) -> float:
        """From the water that was imaged to the water that was taken."""
        settled = 1.0
        if self.settled_ml is not None and self.concentrate_ml is not None:
            settled = self.concentrate_ml / self.settled_ml
        return (1.0 if self.dilution is None else self.dilution) * settled

    def check(self, table: str | None, um_per_px: float | None, *, complete: bool = True) -> None:
        """Refuse what contradicts itself; if it is not `complete`, a volume may come later.

        `table` is the place of a table that says it; None for the options.

        Raises:
            CountingError: it does.
        """
        where = "" if table is None else f"{table}: "
        said = {name: OPTION_OF[name] if table is None else name for name in vars(self)}
        for name, value in vars(self).items():
            if value is not None and not 0 < value < MOST:
                raise CountingError(
                    f"{where}{said[name]} {value:g} makes no sense; give more than 0."
                )
        ways = [said[name] for name in WAYS if getattr(self, name) is not None]
        if len(ways) > 1:
            raise CountingError(
                f"{where}{' and '.join(ways)} both say what volume was imaged; give one of them."
            )
        if self.chamber_depth_um is not None and um_per_px is None:
            raise CountingError(
                f"{where}{said['chamber_depth_um']} needs a scale, and run.json has none; "
                "give --um-per-px."
            )
        settled, concentrate = said["settled_ml"], said["concentrate_ml"]
        if (self.settled_ml is None) != (self.concentrate_ml is None):
            raise CountingError(f"{where}{settled} and {concentrate} belong together; give both.")
        if self.settled_ml and self.concentrate_ml and self.concentrate_ml > self.settled_ml:
            raise CountingError(
                f"{where}{settled} {self.settled_ml:g} cannot have become {concentrate} "
                f"{self.concentrate_ml:g}, which is more; for a thinned sample give "
                f"{said['dilution']}."
            )
        if self.dilution is not None and self.dilution < 1:
            raise CountingError(
                f"{where}{said['dilution']} {self.dilution:g} is below 1; for a thickened sample "
                f"give {settled} and {concentrate}."
            )
        if complete and not ways and (self.dilution is not None or self.settled_ml is not None):
            raise CountingError(
                f"{where}dilution and concentration say nothing without the volume that was "
                f"imaged; give one of {', '.join(said[name] for name in WAYS)}."
            )


WAYS = ("frame_volume_ml", "chamber_depth_um", "volume_ml")
OPTION_OF = {
    "volume_ml": "--sample-volume-ml",
    **{
        name: f"--{name.replace('_', '-')}"
        for name in Water.__dataclass_fields__
        if name != "volume_ml"
    },
}


# ---------------------------------------------------------------------------------------------
# Reading what a run has written.

FRAME_COLUMNS = ("frame", "width", "height", "status", "detections")
RESULT_COLUMNS = ("frame", "class", "score", "x1", "y1", "x2", "y2", "counted")
STATUSES = ("found", "empty", "failed")


def rows_of(
    path: Path, columns: Sequence[str], notes: list[str] | None = None
) -> Iterator[tuple[int, list[str]]]:
    """Lines of a CSV by `columns`, each with its number; a torn last line is left out, and noted.

    A line is torn if nothing ends it, or a field is missing.

    Raises:
        CountingError: no such file, another header, or a broken line before the last.
    """
    try:
        stream = path.open(encoding="utf-8-sig", errors="surrogateescape", newline="")
    except OSError as error:
        raise CountingError(
            f"{path}: cannot be read ({error.strerror}); name the folder that a run has written."
        ) from error
    with stream:
        ended = [True]

        def lines() -> Iterator[str]:
            for line in stream:
                ended[0] = line.endswith("\n")
                yield line

        reader = csv.reader(lines())
        try:
            header = next(reader, [])
            if not ended[0] or any(name not in header for name in columns):
                raise CountingError(
                    f"{path}: its first line lacks columns; expected {','.join(columns)}."
                )
            places = [header.index(name) for name in columns]
            held: list[str] | None = None
            number = 1
            for row in filter(None, reader):
                if held is not None:
                    if len(held) != len(header):
                        raise CountingError(
                            f"{path}, line {number}: has {len(held)} fields, not {len(header)}; "
                            "take the line out, or run again."
                        )
                    yield number, [held[place] for place in places]
                held, number = row, reader.line_num
        except csv.Error as error:
            raise CountingError(
                f"{path}, line {reader.line_num}: is no CSV ({error}); run again."
            ) from error
        if held is not None and ended[0] and len(held) == len(header):
            yield number, [held[place] for place in places]
        elif held is not None and notes is not None:
            notes.append(f"The last line of {path.name} is torn and was left out.")


def read_run(found: Path) -> dict[str, Any]:
    """run.json, checked.

    Raises:
        CountingError: it is missing, or says what it cannot mean.
    """
    path = found / "run.json"
    if not found.is_dir():
        raise CountingError(f"{found}: no such folder; name the folder that a run has written.")
    try:
        run = json.loads(path.read_bytes())
    except OSError as error:
        raise CountingError(
            f"{path}: cannot be read ({error.strerror}); name the folder that a run has written."
        ) from error
    except (ValueError, RecursionError) as error:
        raise CountingError(f"{path}: is no JSON; run again.") from error
    if not isinstance(run, dict):
        raise CountingError(f"{path}: holds no settings; run again.")
    classes = run.get("classes")
    if (
        not isinstance(classes, list)
        or not classes
        or not all(isinstance(name, str) and _writable(name) for name in classes)
        or len(set(classes)) != len(classes)
    ):
        raise CountingError(f"{path}: 'classes' is no list of different names; run again.")
    scale = run.get("um_per_px")
    if scale is not None and not (_finite(scale) and scale > 0):
        raise CountingError(f"{path}: um_per_px {scale!r} is no scale; give --um-per-px.")
    for name, fits in (("thresholds", _finite), ("shapes", lambda value: isinstance(value, str))):
        said = run.get(name)
        if said is not None and not (isinstance(said, dict) and all(map(fits, said.values()))):
            raise CountingError(f"{path}: '{name}' does not name one value a class; run again.")
    if run.get("images") is not None and not isinstance(run["images"], str):
        raise CountingError(f"{path}: 'images' is no folder; run again, or give --images.")
    return run


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def _writable(name: str) -> bool:
    """Whether a name is text; JSON can also hold halves of characters."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


@dataclass(frozen=True)
class Body:
    """What a class is taken for: a shape, and its depth as a share of its width."""

    shape: str = USUAL_SHAPE
    depth_ratio: float | None = None
    said_by: str = "default"


def read_shapes(path: Path) -> dict[str, Body]:
    """A CSV of class, shape and, where it differs, depth_ratio.

    Raises:
        CountingError: not that.
    """
    bodies: dict[str, Body] = {}
    with_ratio = "depth_ratio" in _header(path)
    columns = ("class", "shape", *(["depth_ratio"] if with_ratio else []))
    for number, (label, shape, *ratio) in _table(path, columns):
        where = f"{path}, line {number}"
        if label in bodies:
            raise CountingError(f"{where}: names class '{shown(label)}' again; keep one line.")
        share = _number(ratio[0], where, "depth_ratio") if ratio and ratio[0].strip() else None
        if share is not None and not 0 < share < MOST:
            raise CountingError(f"{where}: depth_ratio {share:g} makes no sense; give above 0.")
        bodies[label] = Body(named_shape(shape, where), share, path.name)
    return bodies


def _header(path: Path) -> list[str]:
    try:
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
            return next(csv.reader(stream), [])
    except (OSError, csv.Error) as error:
        why = getattr(error, "strerror", None) or error
        raise CountingError(f"{path}: cannot be read ({why}); name a CSV file.") from error


def _table(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    """Lines of a table that a person has written: its last line need not be ended."""
    header = _header(path)
    lacking = [name for name in columns if name not in header]
    if lacking:
        raise CountingError(f"{path}: has no column '{lacking[0]}'; its first line names columns.")
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.reader(stream)
        try:
            next(reader)
            for row in reader:
                if not any(cell.strip() for cell in row):
                    continue
                if len(row) != len(header):
                    raise CountingError(
                        f"{path}, line {reader.line_num}: has {len(row)} fields, "
                        f"not {len(header)}; mend it there."
                    )
                yield reader.line_num, [row[header.index(name)] for name in columns]
        except csv.Error as error:
            raise CountingError(f"{path}, line {reader.line_num}: is no CSV ({error}).") from error


def _number(text: str, where: str, name: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise CountingError(f"{where}: {name} '{shown(text)}' is no number; mend it there.")
    return value


# ---------------------------------------------------------------------------------------------
# Samples.

PAGE = re.compile(r"(?P<file>.+)#(?:page|frame)=(?P<page>[1-9]\d{0,8})", re.DOTALL)
TOP = ""  # of frames that lie in no folder


class Samples:
    """Of each frame the sample, and of each sample the water."""

    def __init__(self, options: argparse.Namespace, um_per_px: float | None) -> None:
        self.options = options
        self.path: Path | None = options.samples
        self.pattern = _pattern(options.sample_pattern)
        self.of_file: dict[str, str] | None = None
        self.water_of: dict[str, Water] = {}
        given = {name: getattr(options, name) for name in Water.__dataclass_fields__}
        self.usual = Water(**given)
        if self.path is not None:
            self._read(self.path, um_per_px)
        if self.of_file is not None and (options.sample or options.sample_pattern):
            raise CountingError(
                f"{self.path}: says of which sample a file is, and so does --sample or "
                "--sample-pattern; give one of them."
            )
        if options.sample and options.sample_pattern:
            raise CountingError("--sample and --sample-pattern exclude each other; give one.")
        self.usual.check(None, um_per_px, complete=not self.water_of)

    def __call__(self, frame: str) -> str:
        """The sample of a frame.

        Raises:
            CountingError: nothing says which.
        """
        if self.of_file is not None:
            return self._listed(frame)
        if self.pattern is not None:
            match = self.pattern.search(frame)
            if match is None or match[1] is None:
                raise CountingError(
                    f"--sample-pattern: '{shown(self.pattern.pattern)}' finds no sample in "
                    f"'{shown(frame)}'; make it fit every frame."
                )
            return match[1]
        if self.options.sample == "all":
            return TOP
        folder = posixpath.normpath(posixpath.dirname(frame))  # pathlib would keep every name
        return TOP if folder == "." else folder

    def names(self, keys: Iterable[str]) -> dict[str, str]:
        """How samples are called in what is written."""
        names = {key: key for key in sorted(keys)}
        if TOP in names:
            names[TOP] = "." if len(names) > 1 else "all"
            while names[TOP] in names:
                names[TOP] += "."
        return names

    def water(self, name: str) -> Water:
        return self.water_of.get(name, self.usual)

    def _listed(self, frame: str) -> str:
        assert self.of_file is not None
        match = PAGE.fullmatch(frame)
        for key in (frame, *([match["file"]] if match else [])):
            if key in self.of_file:
                return self.of_file[key]
        raise CountingError(f"{self.path}: names no sample of '{shown(frame)}'; add a line for it.")

    def _read(self, path: Path, um_per_px: float | None) -> None:
        header = _header(path)
        listed = "file" in header
        columns = [name for name in Water.__dataclass_fields__ if name in header]
        for name in columns:
            if getattr(self.usual, name) is not None:
                raise CountingError(
                    f"{path}: has a column {name}, and {OPTION_OF[name]} is given; keep one."
                )
        self.of_file = {} if listed else None
        said: dict[str, dict[str, float]] = {}
        keys = ["sample", *(["file"] if listed else []), *columns]
        for number, row in _table(path, keys):
            where = f"{path}, line {number}"
            sample, cells = row[0].strip(), row[len(keys) - len(columns) :]
            if not sample:
                raise CountingError(f"{where}: names no sample; mend it there.")
            if self.of_file is not None:
                file = row[1].strip().replace("\\", "/").removeprefix("./")
                if self.of_file.setdefault(file, sample) != sample:
                    raise CountingError(f"{where}: '{shown(file)}' is of two samples; keep one.")
            values = said.setdefault(sample, {})
            for name, cell in zip(columns, cells, strict=True):
                if cell.strip():
                    value = _number(cell, where, name)
                    if values.setdefault(name, value) != value:
                        raise CountingError(
                            f"{where}: says {name} {value:g} of sample '{shown(sample)}', and "
                            f"{values[name]:g} further up; keep one."
                        )
        usual = vars(self.usual)
        for sample, values in said.items():
            self.water_of[sample] = Water(**{**usual, **values})
            self.water_of[sample].check(f"{path}, sample '{shown(sample)}'", um_per_px)


def _pattern(text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        pattern = re.compile(text)
    except re.error as error:
        raise CountingError(
            f"--sample-pattern: '{shown(text)}' is no pattern ({error})."
        ) from error
    if not pattern.groups:
        raise CountingError(
            f"--sample-pattern: '{shown(text)}' has no group; put the sample in parentheses, "
            "such as '^(S[0-9]+)_'."
        )
    return pattern


# ---------------------------------------------------------------------------------------------
# Counting.

NEAR = 0.1  # of the threshold: a detection that might as well have fallen on the other side
BEST, RANDOM = 4, 4  # pictures a class
CHECKED = 25  # frames to look at first, of each reason
MOST_PX = 2**24  # of a frame's side, or a corner's place


@dataclass
class ClassTally:
    """What is counted of one class in one sample."""

    count: int = 0
    by_frame: Counter[tuple[int, int]] = field(default_factory=Counter)  # (count, area): frames
    volume: float = 0.0  # sums over the cells, µm³ and µm
    diameter: float = 0.0
    spectrum: Counter[int] = field(default_factory=Counter)  # by `bin_of`

    def add_cell(self, volume: float) -> None:
        diameter = equivalent_diameter(volume)
        self.volume += volume
        self.diameter += diameter
        if diameter > 0:
            self.spectrum[bin_of(diameter)] += 1


@dataclass
class SampleTally:
    """What is counted in one sample; `areas` has the frames that could be read, by area in px."""

    frames: Counter[str] = field(default_factory=Counter)
    areas: Counter[int] = field(default_factory=Counter)
    classes: defaultdict[str, ClassTally] = field(default_factory=lambda: defaultdict(ClassTally))
    every: ClassTally = field(default_factory=ClassTally)

    def frame_counts(self, tally: ClassTally, by_area: bool) -> FrameCounts:
        """The frames by count and exposure, those without an object as well."""
        kinds: Counter[tuple[int, int]] = Counter()
        empty = Counter(self.areas)
        for (count, area), frames in tally.by_frame.items():
            kinds[count, area] += frames
            empty[area] -= frames
        for area, frames in empty.items():
            if frames:
                kinds[0, area] += frames
        rows = sorted(kinds.items())
        return FrameCounts(
            np.array([count for (count, _), _ in rows], dtype=np.int64),
            np.array([area if by_area else 1 for (_, area), _ in rows], dtype=float),
            np.array([frames for _, frames in rows], dtype=np.int64),
        )


def bin_of(diameter: float) -> int:
    """Number of the bin k, from 2^(k/3) µm on: from bin to bin the volume doubles."""
    return math.floor(3 * math.log2(diameter) + 1e-9)


def bin_edge(number: int) -> float:
    """Its lower edge in µm."""
    return float(2 ** (number / 3))


@dataclass(order=True, frozen=True)
class Cell:
    """A detection that may be shown; the first ones by score, then by place."""

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
        best = sorted(self.best.get(label, []), reverse=True)
        return best + [cell for cell in self.drawn.get(label, []) if cell not in best]


class FrameIndex:
    """The frames of frames.csv without their names: 8 bytes of a hash, and some numbers each."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self.width = array("I")
        self.height = array("I")
        self.said = array("I")  # detections that frames.csv tells
        self.failed = array("B")
        self._sorted = np.empty(0, np.uint64)
        self._order = np.empty(0, np.int64)

    def add(self, frame: str, width: int, height: int, said: int, failed: bool) -> None:
        self._hashes.append(_hash(frame))
        self.width.append(width)
        self.height.append(height)
        self.said.append(said)
        self.failed.append(failed)

    def close(self) -> int | None:
        """Make it ready to be asked; the line of a frame that is listed twice, if one is."""
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        self._order = np.argsort(hashes, kind="stable")
        self._sorted = hashes[self._order]
        twice = np.flatnonzero(self._sorted[1:] == self._sorted[:-1])
        self.counted = np.zeros(len(hashes), np.uint32)
        self.near = np.zeros(len(hashes), np.uint32)
        self.rows = np.zeros(len(hashes), np.uint32)
        return int(self._order[twice + 1].min()) if len(twice) else None

    def find(self, frame: str) -> int | None:
        """The place of a frame, None if it is not listed."""
        value = np.uint64(_hash(frame))
        at = int(np.searchsorted(self._sorted, value))
        if at < len(self._sorted) and self._sorted[at] == value:
            return int(self._order[at])
        return None

    def __len__(self) -> int:
        return len(self._hashes)


def _hash(frame: str) -> int:
    data = frame.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


@dataclass(frozen=True)
class Settings:
    """What was asked for, all of it resolved; `run` says who found the objects."""

    found: Path
    run: dict[str, Any]
    images: Path | None
    classes: list[str]
    thresholds: dict[str, float]
    bodies: dict[str, Body]
    um_per_px: float | None
    depth_ratio: float
    level: float
    interval: str
    draws: int
    seed: int


@dataclass
class Counted:
    """All that was counted, to be written."""

    settings: Settings
    samples: dict[str, SampleTally]
    names: dict[str, str]
    showcase: Showcase
    notes: list[str]
    check_first: list[dict[str, Any]] = field(default_factory=list)


def count_objects(
    settings: Settings, samples: Samples, table: IO[str], notes: list[str]
) -> Counted:
    """Stream frames.csv and results.csv; `table` gets counts.csv line by line.

    Raises:
        CountingError: the files are not those of one run.
    """
    index, tallies = _list_frames(settings, samples, notes)
    names = samples.names(tallies)
    counted = Counted(settings, tallies, names, Showcase(settings.seed), notes)
    _read_results(counted, samples, index, table)
    counted.check_first = _check_first(counted, samples, index)
    return counted


def _list_frames(
    settings: Settings, samples: Samples, notes: list[str]
) -> tuple[FrameIndex, dict[str, SampleTally]]:
    path = settings.found / "frames.csv"
    index = FrameIndex()
    tallies: defaultdict[str, SampleTally] = defaultdict(SampleTally)
    lines = array("Q")
    for number, (frame, width, height, status, said) in rows_of(path, FRAME_COLUMNS, notes):
        where = f"{path}, line {number}"
        if status not in STATUSES:
            raise CountingError(
                f"{where}: status '{shown(status)}' is none of {', '.join(STATUSES)}; run again."
            )
        failed = status == "failed"
        size = (0, 0) if failed else (_whole(width, where), _whole(height, where))
        if not failed and not (0 < size[0] < MOST_PX and 0 < size[1] < MOST_PX):
            raise CountingError(f"{where}: {width} x {height} px is no frame; run again.")
        index.add(frame, *size, 0 if failed else _whole(said, where), failed)
        lines.append(number)
        tally = tallies[samples(frame)]
        tally.frames[status] += 1
        if not failed:
            tally.areas[size[0] * size[1]] += 1
    if not len(index):
        raise CountingError(f"{path}: lists no frame; there is nothing to count.")
    twice = index.close()
    if twice is not None:
        raise CountingError(
            f"{path}, line {lines[twice]}: a frame is listed twice; take one of its lines out."
        )
    return index, tallies


def _whole(text: str, where: str) -> int:
    if not re.fullmatch(r"\d{1,9}", text.strip(), re.ASCII):
        raise CountingError(f"{where}: '{shown(text)}' is no whole number; run again.")
    return int(text)


def _read_results(counted: Counted, samples: Samples, index: FrameIndex, table: IO[str]) -> None:
    settings, notes = counted.settings, counted.notes
    path = settings.found / "results.csv"
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("frame", "sample", "class", "count"))
    unlisted = of_failed = 0
    for frame, rows in groupby(
        rows_of(path, RESULT_COLUMNS, notes), key=lambda numbered: numbered[1][0]
    ):
        at = index.find(frame)
        if at is None or index.failed[at]:
            passed = sum(1 for _ in rows)
            unlisted, of_failed = (
                (unlisted + passed, of_failed) if at is None else (unlisted, of_failed + passed)
            )
            continue
        if index.rows[at]:
            raise CountingError(
                f"{path}: the lines of '{shown(frame)}' lie apart; the file is of two runs, "
                "run again into a new folder."
            )
        sample = samples(frame)
        found = _count_frame(counted, sample, frame, at, index, rows, path)
        for label in settings.classes:
            if found[label]:
                writer.writerow((frame, counted.names[sample], label, found[label]))
    if unlisted:
        notes.append(
            "Lines of results.csv of frames that frames.csv does not list, left out since the run "
            f"was stopped there: {unlisted}."
        )
    if of_failed:
        notes.append(f"Lines of results.csv of failed frames, left out: {of_failed}.")
    said = np.frombuffer(index.said, dtype=np.uintc)
    unequal = int(((said != index.rows) & (said != index.counted)).sum())
    if unequal:
        notes.append(
            "Frames with another number of lines in results.csv than frames.csv says: "
            f"{unequal}; the run may have been torn, so run it again to be sure."
        )


def _count_frame(
    counted: Counted,
    sample: str,
    frame: str,
    at: int,
    index: FrameIndex,
    rows: Iterable[tuple[int, list[str]]],
    path: Path,
) -> Counter[str]:
    """Count one frame's detections into its sample; how many there are of each class."""
    settings, tally = counted.settings, counted.samples[sample]
    size = index.width[at], index.height[at]
    area = size[0] * size[1]
    found: Counter[str] = Counter()
    for number, (_, label, score_text, *corner_texts, counts) in rows:
        where = f"{path}, line {number}"
        index.rows[at] += 1
        if label not in settings.bodies:
            raise CountingError(
                f"{where}: class '{shown(label)}' is none of run.json's; run again."
            )
        score = _number(score_text, where, "score")
        corners = [_number(text, where, "a corner") for text in corner_texts]
        x1, y1, x2, y2 = corners
        ordered = -MOST_PX < x1 <= x2 < MOST_PX and -MOST_PX < y1 <= y2 < MOST_PX
        if counts not in ("0", "1") or not ordered:
            raise CountingError(f"{where}: is no detection; run again.")
        threshold = settings.thresholds.get(label)
        index.near[at] += threshold is not None and abs(score - threshold) <= NEAR
        if counts == "0":
            continue
        found[label] += 1
        counted.showcase.add(label, Cell(score, frame, (x1, y1, x2, y2), size))
        if settings.um_per_px is not None:
            volume = volume_of(x2 - x1, y2 - y1, settings, label)
            tally.classes[label].add_cell(volume)
            tally.every.add_cell(volume)
    for label, count in found.items():
        one = tally.classes[label]
        one.count += count
        one.by_frame[count, area] += 1
    every = sum(found.values())
    index.counted[at] = every
    tally.every.count += every
    if every:
        tally.every.by_frame[every, area] += 1
    return found


def volume_of(width_px: float, height_px: float, settings: Settings, label: str) -> float:
    """Volume in µm³ of a cell of the class `label` in a box of that many px."""
    assert settings.um_per_px is not None
    longer = max(width_px, height_px) * settings.um_per_px
    shorter = min(width_px, height_px) * settings.um_per_px
    body = settings.bodies[label]
    ratio = settings.depth_ratio if body.depth_ratio is None else body.depth_ratio
    return SHAPES[body.shape](longer, shorter, ratio * shorter)


def _check_first(counted: Counted, samples: Samples, index: FrameIndex) -> list[dict[str, Any]]:
    """The frames that a person should look at, by reason, the most urgent first.

    Unusual is a count further from the sample's median than three standard deviations, taken as the
    larger of 1.4826 MAD, the square root of the median, and 1 (Leys et al. 2013; Poisson).
    """
    usual = {key: _median_and_spread(tally) for key, tally in counted.samples.items()}
    failed: list[tuple[float, int, str, str]] = []
    near: list[tuple[float, int, str, str]] = []
    unusual: list[tuple[float, int, str, str]] = []
    path = counted.settings.found / "frames.csv"
    for at, (_, row) in enumerate(rows_of(path, FRAME_COLUMNS)):
        frame, sample = row[0], samples(row[0])
        name, count = counted.names[sample], int(index.counted[at])
        if index.failed[at]:
            _keep(failed, (0.0, -at, frame, name))
            continue
        if index.near[at]:
            _keep(near, (float(index.near[at]), -at, frame, name))
        median, spread = usual[sample]
        if abs(count - median) > 3 * spread:
            _keep(unusual, ((abs(count - median)) / spread, -at, frame, name))
    reasons = (
        (failed, "could not be read"),
        (near, f"most scores within {NEAR:g} of the threshold"),
        (unusual, "unusual number of objects"),
    )
    return [
        {
            "frame": frame,
            "sample": name,
            "reason": reason,
            "counted": None if kept is failed else int(index.counted[-at]),
            "near_threshold": None if kept is failed else int(index.near[-at]),
        }
        for kept, reason in reasons
        for _, at, frame, name in sorted(kept, reverse=True)
    ]


def _keep(heap: list[tuple[float, int, str, str]], item: tuple[float, int, str, str]) -> None:
    if len(heap) < CHECKED:
        heapq.heappush(heap, item)
    else:
        heapq.heappushpop(heap, item)


def _median_and_spread(tally: SampleTally) -> tuple[float, float]:
    counts = tally.frame_counts(tally.every, by_area=False)
    if not len(counts.count):
        return 0.0, 1.0
    median = _weighted_median(counts.count.astype(float), counts.frames)
    off = _weighted_median(np.abs(counts.count - median), counts.frames)
    return median, max(1.4826 * off, math.sqrt(median), 1.0)


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


# ---------------------------------------------------------------------------------------------
# What is said of a sample.


def document_of(counted: Counted, samples: Samples, options: argparse.Namespace) -> dict[str, Any]:
    """counts.json: settings, and of each sample its classes; null where nothing could be known."""
    settings = counted.settings
    said = {}
    for number, (key, name) in enumerate(counted.names.items()):
        water = samples.water(name)
        said[name] = _sample(counted, counted.samples[key], water, number)
    _note(counted, said, samples)
    return {
        "format": 1,
        "run": settings.run,
        "settings": {
            "found": str(settings.found),
            "images": None if settings.images is None else str(settings.images),
            "um_per_px": settings.um_per_px,
            "depth_ratio": settings.depth_ratio,
            "interval": settings.interval,
            "level": settings.level,
            "draws": settings.draws,
            "seed": settings.seed,
            "sample": options.sample,
            "sample_pattern": options.sample_pattern,
            "samples": None if options.samples is None else str(options.samples),
            "water": vars(samples.usual),
            "near_threshold": NEAR,
            "classes": {
                label: {
                    "threshold": settings.thresholds.get(label),
                    "shape": body.shape,
                    "formula": SHAPES[body.shape].__doc__,
                    "depth_ratio": body.depth_ratio,
                    "shape_from": body.said_by,
                }
                for label, body in settings.bodies.items()
            },
        },
        "notes": counted.notes,
        "samples": said,
        "check_first": counted.check_first,
    }


def _sample(counted: Counted, tally: SampleTally, water: Water, number: int) -> dict[str, Any]:
    settings = counted.settings
    imaged = water.imaged_ml(tally.areas, tally.frames["failed"], settings.um_per_px)
    by_area = water.chamber_depth_um is not None
    counts = [
        tally.classes[label].count if label in tally.classes else 0 for label in settings.classes
    ]

    def row(one: ClassTally, place: int) -> dict[str, Any]:
        interval = interval_of(
            tally.frame_counts(one, by_area),
            method=settings.interval,
            level=settings.level,
            draws=settings.draws,
            seed=(settings.seed, number, place),
        )
        return _row(one, interval, imaged, water.factor, settings)

    return {
        "frames": {status: tally.frames[status] for status in STATUSES},
        "imaged_ml": imaged,
        "water": vars(water),
        "factor": water.factor,
        "all": row(tally.every, 0),
        "classes": {
            label: row(tally.classes.get(label, ClassTally()), place)
            for place, label in enumerate(settings.classes, 1)
        },
        "community": {"richness": sum(count > 0 for count in counts), "shannon": shannon(counts)},
    }


def _row(
    tally: ClassTally, interval: Interval, imaged: float | None, factor: float, settings: Settings
) -> dict[str, Any]:
    per_ml = factor / imaged if imaged else None

    def litre(count: float) -> float | None:
        return None if per_ml is None else count * per_ml * 1000

    sized = settings.um_per_px is not None and tally.count > 0
    volume = tally.volume / tally.count if sized else None
    cells = litre(tally.count)
    whole: float | None = None
    if settings.um_per_px is not None and cells is not None:
        whole = cells * (volume or 0.0) / UM3_PER_MM3
    bins = range(min(tally.spectrum), max(tally.spectrum) + 2) if tally.spectrum else range(0)
    return {
        "count": tally.count,
        "count_low": interval.low,
        "count_high": interval.high,
        "interval": interval.method,
        "dispersion": interval.index,
        "dispersion_p": interval.p,
        "cells_per_ml": None if per_ml is None else tally.count * per_ml,
        "cells_per_l": cells,
        "cells_per_l_low": litre(interval.low),
        "cells_per_l_high": litre(interval.high),
        "biovolume_um3": volume,
        "biovolume_mm3_per_l": whole,
        "esd_um": tally.diameter / tally.count if sized else None,
        "spectrum": {
            "edges_um": [bin_edge(number) for number in bins],
            "counts": [tally.spectrum[number] for number in bins[:-1]],
        },
    }


def shannon(counts: Sequence[int]) -> float | None:
    """Shannon's index H = −Σ p ln p, in nats; None where there is nothing."""
    total = sum(counts)
    if not total:
        return None
    return -sum(count / total * math.log(count / total) for count in counts if count) + 0.0


def _note(counted: Counted, said: Mapping[str, Any], samples: Samples) -> None:
    """Add what a reader has to know to the notes."""
    notes, settings = counted.notes, counted.settings
    without = [name for name, sample in said.items() if not sample["imaged_ml"]]
    if len(without) == len(said):
        notes.append(
            "No volume is known, so there are counts and no concentrations; give "
            "--frame-volume-ml, --chamber-depth-um or --sample-volume-ml."
        )
    elif without:
        notes.append(f"No volume is known of {_some(without)}: counts and no concentrations.")
    strangers = [name for name in samples.water_of if name not in said]
    if strangers:
        notes.append(f"{samples.path} names samples without a frame: {_some(strangers)}.")
    if settings.um_per_px is None:
        notes.append("No scale is known, so there are no sizes; give --um-per-px.")
    failed = sum(sample["frames"]["failed"] for sample in said.values())
    if failed:
        notes.append(f"Frames that could not be read, no part of the imaged volume: {failed}.")
    clumped = [
        name
        for name, sample in said.items()
        if any(
            row["dispersion_p"] is not None and row["dispersion_p"] < OVERDISPERSED
            for row in (sample["all"], *sample["classes"].values())
        )
    ]
    if clumped:
        what = {
            "poisson": "Poisson intervals, which were asked for, are too narrow there",
            "bootstrap": "Poisson intervals would be too narrow there",
            "auto": "Poisson intervals would be too narrow there, and the bootstrap's were taken",
        }[settings.interval]
        notes.append(
            f"In {_some(clumped)} counts vary more from frame to frame than chance alone would "
            f"have it (index of dispersion above 1, p < {OVERDISPERSED:g}): {what}."
        )


def _some(names: Sequence[str]) -> str:
    first = ", ".join(f"'{shown(name)}'" for name in names[:5])
    return first if len(names) <= 5 else f"{first} and {len(names) - 5} more"


SAMPLE_COLUMNS = (
    *("count", "count_low", "count_high", "interval", "dispersion", "dispersion_p"),
    *("cells_per_ml", "cells_per_l", "cells_per_l_low", "cells_per_l_high"),
    *("biovolume_um3", "biovolume_mm3_per_l", "esd_um"),
)


def write_samples(document: Mapping[str, Any], table: IO[str]) -> None:
    """samples.csv: a line a sample and class, those without an object as well."""
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("sample", "class", "frames", "failed", "imaged_ml", *SAMPLE_COLUMNS))
    for name, sample in document["samples"].items():
        frames = sample["frames"]["found"] + sample["frames"]["empty"]
        for label, row in sample["classes"].items():
            writer.writerow(
                (
                    *(name, label, frames, sample["frames"]["failed"]),
                    *(_cell(sample["imaged_ml"]), *(_cell(row[key]) for key in SAMPLE_COLUMNS)),
                )
            )


def _cell(value: object) -> object:
    return "" if value is None else f"{value:.10g}" if isinstance(value, float) else value


# ---------------------------------------------------------------------------------------------
# Pictures of cells.

TALLEST = 112  # px, of a picture
MARGIN = 0.15  # around a box, of its longer side


def pictures_of(counted: Counted) -> tuple[dict[str, list[tuple[Cell, bytes]]], str | None]:
    """JPEGs of the chosen cells by class, and a sentence if there are none or fewer."""
    chosen = {label: counted.showcase.chosen(label) for label in counted.settings.classes}
    wanted = sum(map(len, chosen.values()))
    root = counted.settings.images
    if not wanted:
        return {}, "Nothing was counted, so there are no pictures."
    if root is None or not root.is_dir():
        return {}, "The folder of the images is not here, so there are no pictures of cells."
    if not (_has("PIL.Image") or _has("cv2")):
        return {}, "Neither Pillow nor OpenCV is installed, so there are no pictures of cells."
    places: dict[str, list[tuple[str, int, Cell]]] = {}
    for label, cells in chosen.items():
        for at, cell in enumerate(cells):
            places.setdefault(cell.frame, []).append((label, at, cell))
    made: dict[str, dict[int, tuple[Cell, bytes]]] = {label: {} for label in chosen}
    for frame, cells_there in places.items():
        pixels = read_frame(root, frame, cells_there[0][2].size)
        for label, at, cell in cells_there if pixels is not None else ():
            made[label][at] = cell, _jpeg(_cut(pixels, cell.box))
    got = sum(map(len, made.values()))
    missing = f"{wanted - got} of {wanted} pictures are missing: their images cannot be read."
    return (
        {label: [cells[at] for at in sorted(cells)] for label, cells in made.items() if cells},
        missing if got < wanted else None,
    )


def _has(module: str) -> bool:
    try:
        __import__(module)
    except ImportError:
        return False
    return True


def read_frame(root: Path, frame: str, size: tuple[int, int]) -> np.ndarray | None:
    """RGB pixels [H, W, 3] uint8 of a frame; None if it cannot be read, or has another size.

    A path that leaves `root` is not followed.
    """
    try:
        path, page = root / frame, None
        match = PAGE.fullmatch(frame)
        if match and not path.is_file():
            path, page = root / match["file"], int(match["page"]) - 1
        if not path.resolve().is_relative_to(root.resolve()) or not path.is_file():
            return None
        for read in (_by_pillow, _by_opencv):
            pixels = read(path, page)
            if pixels is not None and pixels.shape[1::-1] == size:
                return pixels
    except (OSError, ValueError):
        return None
    return None


def _by_pillow(path: Path, page: int | None) -> np.ndarray | None:
    try:
        from PIL import Image, ImageOps
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(path) as image:
                image.seek(page or 0)
                if image.mode[0] in "IF":
                    return _eight_bit(np.asarray(image))
                return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except Exception:  # Pillow's plugins raise anything on broken files
        return None


def _by_opencv(path: Path, page: int | None) -> np.ndarray | None:
    try:
        import cv2
    except ImportError:
        return None
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        image = None if page else cv2.imread(str(path), flags)
        if image is None:
            done, pages = cv2.imreadmulti(str(path), page or 0, 1, flags=flags)
            image = pages[0] if done and pages else None
        if image is None and page is not None:
            film = cv2.VideoCapture(str(path))
            film.set(cv2.CAP_PROP_POS_FRAMES, page)
            done, image = film.read()
            film.release()
            image = image if done else None
        return None if image is None else _eight_bit(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    except cv2.error:
        return None


def _eight_bit(pixels: np.ndarray) -> np.ndarray:
    """As RGB of 8 bits; more are stretched between the 0.1th and 99.9th percentile, to be seen."""
    if pixels.dtype != np.uint8:
        values = np.nan_to_num(pixels.astype(np.float32))
        low, high = np.percentile(values, [0.1, 99.9])
        pixels = ((values - low) * (255 / max(high - low, 1e-9))).clip(0, 255).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _cut(pixels: np.ndarray | None, box: tuple[float, float, float, float]) -> np.ndarray:
    assert pixels is not None
    height, width = pixels.shape[:2]
    margin = MARGIN * max(box[2] - box[0], box[3] - box[1]) + 2
    x1, y1 = (
        min(max(0, math.floor(low - margin)), end - 1)
        for low, end in ((box[0], width), (box[1], height))
    )
    x2, y2 = (
        min(end, max(math.ceil(high + margin), low + 1))
        for high, end, low in ((box[2], width, x1), (box[3], height, y1))
    )
    return pixels[y1:y2, x1:x2]


def _jpeg(pixels: np.ndarray) -> bytes:
    """A small picture; both libraries make it alike."""
    height, width = pixels.shape[:2]
    scale = TALLEST / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    try:
        from PIL import Image
    except ImportError:
        import cv2

        way = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        small = cv2.resize(np.ascontiguousarray(pixels[..., ::-1]), size, interpolation=way)
        return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1])
    stream = io.BytesIO()
    picture = Image.fromarray(np.ascontiguousarray(pixels)).resize(size, Image.Resampling.BICUBIC)
    picture.save(stream, format="JPEG", quality=85)
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------
# The page.

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;"
    "color:#1a1a1a}table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}"
    "td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left;overflow-wrap:anywhere}"
    "figure{display:inline-block;margin:.3rem;text-align:center;font-size:.75rem;"
    "vertical-align:bottom}svg text{font:12px system-ui,sans-serif}"
    "@media print{body{max-width:none;margin:0;font-size:10pt}tr,figure,svg{break-inside:avoid}}"
)
# Okabe and Ito's colours, which colour-blind readers tell apart; the last is for all others.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")


def shown(text: str) -> str:
    """A name without what a screen cannot show or would obey."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _text(value: object) -> str:
    return html.escape(shown(str(value)), quote=True)


def _table_html(columns: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    head = "".join(f"<th>{_text(each)}</th>" for each in columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(cell)}</td>" for cell in line) + "</tr>" for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def figure(value: float | None) -> str:
    """A number as a person reads it: three digits, thousands apart; a dash where there is none."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if 1e-3 <= abs(value) < 1e7:
        digits = max(0, 2 - math.floor(math.log10(abs(value))))
        return f"{value:,.{digits}f}"
    return f"{value:.2e}"


def _range(low: float | None, high: float | None) -> str:
    return "-" if low is None else f"{figure(low)} to {figure(high)}"


def page_of(document: Mapping[str, Any], counted: Counted) -> str:
    """summary.html, which stands alone."""
    settings = document["settings"]
    title = f"Counts of {shown(counted.settings.found.resolve().name)}"
    notes = "".join(f"<li>{_text(note)}</li>" for note in document["notes"])
    parts = [
        f"<h1>{_text(title)}</h1>",
        f"<ul>{notes}</ul>" if notes else "",
        "<h2>Samples</h2>",
        _overview(document),
        "<h2>Classes</h2>",
        f"<p>Limits are those of {settings['level']:.0%} intervals of the count; what the detector "
        "misses or invents is not in them.</p>",
        *(_section(name, sample) for name, sample in document["samples"].items()),
        "<h2>Size spectrum</h2>",
        _spectrum(counted),
        "<h2>Cells</h2>",
        _cells(counted),
        "<h2>Frames to check by hand first</h2>",
        _frames_to_check(document),
        "<h2>Settings</h2>",
        _settings(document),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{_text(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _overview(document: Mapping[str, Any]) -> str:
    columns = (
        *("sample", "frames", "failed", "imaged mL", "cells", "limits", "cells per L", "limits"),
        *("biovolume mm³/L", "dispersion", "richness", "Shannon H"),
    )
    lines = []
    for name, sample in document["samples"].items():
        row, frames = sample["all"], sample["frames"]
        lines.append(
            (
                *(name, frames["found"] + frames["empty"], frames["failed"]),
                *(figure(sample["imaged_ml"]), f"{row['count']:,}"),
                _range(row["count_low"], row["count_high"]),
                figure(row["cells_per_l"]),
                _range(row["cells_per_l_low"], row["cells_per_l_high"]),
                *(figure(row["biovolume_mm3_per_l"]), figure(row["dispersion"])),
                *(sample["community"]["richness"], figure(sample["community"]["shannon"])),
            )
        )
    return _table_html(columns, lines) + (
        "<p>Dispersion is the variance over the mean of the frames' counts: 1 by chance alone, "
        "more where cells lie in clumps. Richness is the number of classes that are there.</p>"
    )


def _section(name: str, sample: Mapping[str, Any]) -> str:
    columns = (
        *("class", "cells", "limits", "by", "dispersion", "cells per mL", "cells per L", "limits"),
        *("biovolume µm³", "mm³/L", "ESD µm"),
    )
    lines = [
        (
            *(label, f"{row['count']:,}", _range(row["count_low"], row["count_high"])),
            *(row["interval"], figure(row["dispersion"]), figure(row["cells_per_ml"])),
            figure(row["cells_per_l"]),
            _range(row["cells_per_l_low"], row["cells_per_l_high"]),
            *(figure(row[key]) for key in ("biovolume_um3", "biovolume_mm3_per_l", "esd_um")),
        )
        for label, row in sample["classes"].items()
    ]
    return f"<details open><summary>{_text(name)}</summary>{_table_html(columns, lines)}</details>"


def _spectrum(counted: Counted) -> str:
    """Bars of all samples, by class, over bins from one of which to the next the volume doubles."""
    if counted.settings.um_per_px is None:
        return "<p>No scale is known, so there are no sizes.</p>"
    by_class: dict[str, Counter[int]] = {}
    for tally in counted.samples.values():
        for label, one in tally.classes.items():
            by_class.setdefault(label, Counter()).update(one.spectrum)
    order = sorted(by_class, key=lambda label: -sum(by_class[label].values()))
    series = [(label, by_class[label]) for label in order[: len(COLOURS) - 1]]
    rest: Counter[int] = sum((by_class[label] for label in order[len(series) :]), Counter())
    series += [("all others", rest)] if rest else []
    every: Counter[int] = sum((bars for _, bars in series), Counter())
    if not every:
        return "<p>Nothing was counted.</p>"
    first, last = min(every), max(every)
    most, step = max(every.values()), min(60.0, 640 / (last - first + 1))
    drawn = []
    for at, number in enumerate(range(first, last + 1)):
        y = 220.0
        for (label, bars), colour in zip(series, COLOURS, strict=False):
            tall = 200 * bars[number] / most
            y -= tall
            if tall:
                drawn.append(
                    f'<rect x="{60 + at * step:.1f}" y="{y:.2f}" width="{step - 1:.1f}" '
                    f'height="{tall:.2f}" fill="{colour}"><title>{_text(label)}: '
                    f"{bars[number]}</title></rect>"
                )
    every_other = max(1, math.ceil(36 / step))
    for at, number in enumerate(range(first, last + 2)):
        if at % every_other == 0:
            drawn.append(
                f'<text x="{60 + at * step:.1f}" y="236" text-anchor="middle">'
                f"{figure(bin_edge(number))}</text>"
            )
    drawn.append(f'<text x="54" y="26" text-anchor="end">{most:,}</text>')
    drawn.append('<text x="54" y="224" text-anchor="end">0</text>')
    drawn.append('<text x="380" y="256" text-anchor="middle">ESD in µm</text>')
    key = "".join(
        f'<rect x="720" y="{20 + 20 * at}" width="12" height="12" fill="{colour}"/>'
        f'<text x="738" y="{31 + 20 * at}">{_text(label)}</text>'
        for at, ((label, _), colour) in enumerate(zip(series, COLOURS, strict=False))
    )
    return (
        '<svg viewBox="0 0 1000 264" role="img" aria-label="size spectrum">'
        '<path d="M60 220H700M60 20V220" stroke="#1a1a1a" fill="none"/>'
        + "".join(drawn)
        + key
        + "</svg><p>Cells by equivalent spherical diameter, of all samples; the volume doubles "
        "from bin to bin.</p>"
    )


def _cells(counted: Counted) -> str:
    pictures, missing = pictures_of(counted)
    said = [f"<p>{_text(missing)}</p>"] if missing else []
    if pictures:
        said.insert(
            0, "<p>Of each class those of the highest scores, then some drawn at random.</p>"
        )
    for label, cells in pictures.items():
        said.append(f"<h3>{_text(label)}</h3>")
        for cell, data in cells:
            where = f"{cell.frame}: score {cell.score:.2f}"
            said.append(
                f'<figure><img alt="{_text(where)}" title="{_text(where)}" '
                f'src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
                f"<figcaption>{cell.score:.2f}</figcaption></figure>"
            )
    return "\n".join(said)


def _frames_to_check(document: Mapping[str, Any]) -> str:
    rows = document["check_first"]
    if not rows:
        return "<p>None stands out.</p>"
    lines = [
        (
            row["frame"],
            row["sample"],
            row["reason"],
            *("-" if row[key] is None else row[key] for key in ("counted", "near_threshold")),
        )
        for row in rows
    ]
    return _table_html(("frame", "sample", "why", "counted", "near the threshold"), lines)


def _settings(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    rows: list[tuple[str, object]] = list(document["run"].items())
    rows += [
        (key, "-" if settings[key] is None else settings[key])
        for key in ("um_per_px", "depth_ratio", "interval", "level", "draws", "seed")
    ]
    rows += [(key, value) for key, value in settings["water"].items() if value is not None]
    shapes = [
        (
            label,
            *(said["shape"], said["formula"], said["shape_from"]),
            "-" if said["threshold"] is None else f"{said['threshold']:g}",
        )
        for label, said in settings["classes"].items()
    ]
    return (
        _table_html(("setting", "value"), rows)
        + _table_html(("class", "shape", "volume", "said by", "threshold"), shapes)
        + "<p>l and w are the longer and the shorter side of the box, t = depth ratio · w. A box "
        "is larger than a cell that lies askew in it.</p>"
    )


# ---------------------------------------------------------------------------------------------
# The command.


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise CountingError(f"{message}; '{self.prog} --help' tells what there is.")


def parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The options.

    Raises:
        CountingError: they make no sense.
    """
    parser = Parser(
        prog=prog,
        description=f"Cells per litre from what a detector has found.\n\n"
        f"  {prog} FOUND --out counts\n"
        f"  {prog} FOUND --out counts --chamber-depth-um 100 --um-per-px 0.5 --dilution 10\n"
        f"  {prog} FOUND --out counts --frame-volume-ml 2e-4 --settled-ml 50 --concentrate-ml 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("found", type=Path, metavar="FOUND", help="folder with frames.csv, results.csv, run.json")
    add("--out", required=True, type=Path, help="the folder to be written")
    add("--images", type=Path, help="folder of the images (else run.json says)")
    which = parser.add_argument_group("samples (else folders, or all frames are one)")
    add = which.add_argument
    add(
        "--sample", choices=("folder", "all"), help="a frame's folder is its sample, or all are one"
    )
    add("--sample-pattern", metavar="REGEX", help="its first group in a frame's path is the sample")
    add(
        "--samples",
        type=Path,
        metavar="FILE.csv",
        help="columns file and sample, or sample alone, and of the options below those that differ "
        "between samples: frame_volume_ml, chamber_depth_um, volume_ml, dilution, settled_ml, "
        "concentrate_ml",
    )
    water = parser.add_argument_group("water: one of the first three, for concentrations")
    add = water.add_argument
    add("--frame-volume-ml", type=float, metavar="V", help="water that a frame shows")
    add("--chamber-depth-um", type=float, metavar="D", help="depth of the chamber, with a scale")
    add(
        "--sample-volume-ml",
        dest="volume_ml",
        type=float,
        metavar="V",
        help="water that all frames of a sample show together",
    )
    add("--dilution", type=float, metavar="F", help="the sample was diluted 1:F before")
    add("--settled-ml", type=float, metavar="S", help="water that was settled or filtered ...")
    add("--concentrate-ml", type=float, metavar="C", help="... and what it was concentrated to")
    size = parser.add_argument_group("sizes")
    add = size.add_argument
    add("--um-per-px", type=float, metavar="UM", help="scale of the frames (else run.json says)")
    add(
        "--shapes",
        type=Path,
        metavar="FILE",
        help="a CSV of class, shape and, if you like, depth_ratio; detkd reads data-set cards too. "
        f"Shapes: {', '.join(SHAPES)}",
    )
    add(
        "--depth-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="depth of a cell as a share of its width, of shapes that have a depth (1)",
    )
    chance = parser.add_argument_group("intervals")
    add = chance.add_argument
    add(
        "--interval",
        choices=("auto", "poisson", "bootstrap"),
        default="auto",
        help="auto: Poisson's, and the bootstrap's over frames where counts vary too much for it",
    )
    add("--level", type=float, default=0.95, help="of the intervals (0.95)")
    add("--draws", type=int, default=2000, help="of the bootstrap (2000)")
    add("--seed", type=int, default=0, help="of the bootstrap and of the pictures (0)")
    options = parser.parse_args(argv)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    for name in ("um_per_px", "depth_ratio"):
        value = getattr(options, name)
        if value is not None and not 0 < value < MOST:
            raise CountingError(
                f"--{name.replace('_', '-')}: {value:g} makes no sense; give more than 0."
            )
    if not 0.5 <= options.level < 1:
        raise CountingError(f"--level: {options.level:g} is not from 0.5 to below 1.")
    if not 100 <= options.draws <= 1_000_000:
        raise CountingError(f"--draws: {options.draws} is not from 100 to 1,000,000.")
    if options.seed < 0:
        raise CountingError(f"--seed: {options.seed} is below 0.")


def count(options: argparse.Namespace, shapes: Mapping[str, Body] | None = None) -> int:
    """Count what `options` name and write the folder, complete or not at all.

    `shapes` are those of `--shapes` where somebody else has read them, and may be of more classes.

    Raises:
        CountingError: something that a person can mend.
    """
    if options.out.exists():
        raise CountingError(f"{options.out}: is there already; name a new folder with --out.")
    notes: list[str] = []
    settings = _settings_of(options, shapes, notes)
    samples = Samples(options, settings.um_per_px)
    with new_folder(options.out) as folder:
        with _writing(folder / "counts.csv") as table:
            counted = count_objects(settings, samples, table, notes)
        document = document_of(counted, samples, options)
        with _writing(folder / "samples.csv") as table:
            write_samples(document, table)
        with _writing(folder / "counts.json") as stream:
            stream.write(json.dumps(document, indent=1, allow_nan=False) + "\n")
        page = page_of(document, counted)
        (folder / "summary.html").write_bytes(page.encode("utf-8", "replace"))
    _say(document, options)
    return 0


def _settings_of(
    options: argparse.Namespace, shapes: Mapping[str, Body] | None, notes: list[str]
) -> Settings:
    run = read_run(options.found)
    scale = run.get("um_per_px") if options.um_per_px is None else options.um_per_px
    if options.um_per_px is not None and run.get("um_per_px") not in (None, options.um_per_px):
        notes.append(
            f"The scale is {options.um_per_px:g} µm a px, as --um-per-px says; "
            f"run.json says {run['um_per_px']:g}."
        )
    given = shapes is not None
    if shapes is None:
        shapes = read_shapes(options.shapes) if options.shapes is not None else {}
    where = str(options.found / "run.json")
    said = {
        label: Body(named_shape(shape, where), None, "run.json")
        for label, shape in (run.get("shapes") or {}).items()
    }
    bodies = {label: shapes.get(label, said.get(label, Body())) for label in run["classes"]}
    strangers = [label for label in shapes if label not in bodies]
    if strangers and not given:
        notes.append(
            f"{options.shapes} names shapes of classes that are not here: {_some(strangers)}."
        )
    images = options.images or (Path(run["images"]) if run.get("images") else None)
    return Settings(
        found=options.found,
        run={name: str(run[name]) for name in ("detkd", "model") if name in run},
        images=images,
        classes=run["classes"],
        thresholds=run.get("thresholds") or {},
        bodies=bodies,
        um_per_px=scale,
        depth_ratio=options.depth_ratio,
        level=options.level,
        interval=options.interval,
        draws=options.draws,
        seed=options.seed,
    )


def _say(document: Mapping[str, Any], options: argparse.Namespace) -> None:
    """Print the main numbers."""
    out = []
    for name, sample in list(document["samples"].items())[:20]:
        row = sample["all"]
        frames = sample["frames"]["found"] + sample["frames"]["empty"]
        line = (
            f"{shown(name)}: {row['count']:,} cells on {frames:,} frames "
            f"({_range(row['count_low'], row['count_high'])})"
        )
        if row["cells_per_l"] is not None:
            limits = _range(row["cells_per_l_low"], row["cells_per_l_high"])
            line += f", {figure(row['cells_per_l'])} per litre ({limits})"
        out.append(line)
    if len(document["samples"]) > 20:
        out.append(f"and {len(document['samples']) - 20} more samples")
    out += [shown(note) for note in document["notes"]]
    out.append(f"written: {options.out}/counts.csv, samples.csv, counts.json, summary.html")
    encoding = sys.stdout.encoding or "utf-8"
    print("\n".join(out).encode(encoding, "replace").decode(encoding))


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder to be filled, which takes the name `path` if all goes well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield building
        mask = os.umask(0)
        os.umask(mask)
        building.chmod(0o777 & ~mask)
        building.rename(path)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


@contextmanager
def _writing(path: Path) -> Iterator[IO[str]]:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as stream:
        yield stream


def main(argv: Sequence[str] | None = None) -> int:
    """The file as a program of its own: 0, 2 (refused, in one sentence) or 130."""
    try:
        return count(parse(argv, Path(sys.argv[0]).name))
    except CountingError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        place = error.filename or "a file"
        print(f"error: {place}: {error.strerror or error}; choose another place.", file=sys.stderr)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
