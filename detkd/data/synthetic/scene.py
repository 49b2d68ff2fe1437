"""One scene: background, light, cells, debris, and the camera's noise.

Brightfield multiplies: light that passes a cell and another above it is dimmed by both. Every
scene is a function of (seed, index) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from detkd.data.synthetic.shapes import draw
from detkd.data.synthetic.taxa import DEMO_TAXA, TAXA

PX_PER_UM = 0.85  # at 320 px image width
VISIBLE = 0.07  # density from which on a pixel belongs to the object
LEAST_PX = 60  # visible pixels under which an object is not annotated
HIDDEN = 0.45  # share of an object under others from which on it is difficult
BLURRED = 2.2  # px of defocus from which on it is difficult


@dataclass(frozen=True)
class SceneObject:
    """A cell: its box (xyxy px, max exclusive) bounds the pixels of `mask` [H, W]."""

    label: str
    box: tuple[int, int, int, int]
    mask: np.ndarray
    difficult: bool
    truncated: bool


@dataclass(frozen=True)
class Scene:
    """An RGB image [H, W, 3] uint8, its objects, the water sample, and the scale."""

    image: np.ndarray
    objects: tuple[SceneObject, ...]
    sample: str
    px_per_um: float


@dataclass(frozen=True)
class _Sample:
    """What the scenes of one water sample have in common."""

    colour: np.ndarray
    tilt: np.ndarray
    vignette: float
    noise: float
    crowding: float
    debris: float
    focus: float
    shares: np.ndarray


def render_scene(
    seed: int,
    index: int,
    *,
    size: tuple[int, int] = (240, 320),
    taxa: Sequence[str] = DEMO_TAXA,
    samples: int = 6,
) -> Scene:
    """Scene number `index` of the series `seed`; `size` is (height, width)."""
    number = index % samples
    sample = _sample(seed, number, taxa)
    random = np.random.default_rng([seed, 1, index])
    height, width = size
    scale = PX_PER_UM * width / 320
    density = np.zeros((height, width, 3), np.float32)
    _debris(density, sample, random, scale)
    placed: list[tuple[str, np.ndarray, float, bool]] = []
    for _ in range(1 + random.poisson(sample.crowding)):
        label = taxa[random.choice(len(taxa), p=sample.shares)]
        taxon = TAXA[label]
        length = random.uniform(*taxon.length) * scale
        blur = abs(random.normal(0, sample.focus))
        patch = _defocus(draw(taxon.shape, length, random, **taxon.options), blur)
        patch *= random.uniform(0.75, 1.15)
        centre = random.uniform((0, 0), (width, height))
        layer, inside = _place(patch, centre, size)
        mask = layer > VISIBLE
        if mask.sum() < max(LEAST_PX, 0.25 * (patch > VISIBLE).sum()):
            continue  # so little of it is in the picture that nobody would annotate it
        density += layer[..., None] * np.asarray(taxon.colour, np.float32)
        placed.append((label, mask, blur, not inside))
    objects = []
    for at, (label, mask, blur, truncated) in enumerate(placed):
        over = np.zeros(size, bool)
        for other in placed[at + 1 :]:
            over |= other[1]
        hidden = (mask & over).sum() / mask.sum()
        difficult = bool(hidden > HIDDEN or blur > BLURRED)
        objects.append(SceneObject(label, _box(mask), mask, difficult, truncated))
    image = _camera(density, sample, random)
    return Scene(image, tuple(objects), f"S{number + 1}", scale)


def _sample(seed: int, number: int, taxa: Sequence[str]) -> _Sample:
    random = np.random.default_rng([seed, 0, number])
    frequency = 1 / (1 + np.arange(len(taxa))) ** 0.7  # a long tail, and each sample its own
    shares = frequency * random.gamma(2.0, size=len(taxa))
    warm = random.uniform(-0.07, 0.07)
    colour = (
        random.uniform(0.7, 0.88) + np.array([warm, warm / 3, -warm]) + random.normal(0, 0.02, 3)
    )
    return _Sample(
        colour=colour.astype(np.float32),
        tilt=random.normal(0, 0.06, 2),
        vignette=random.uniform(0.05, 0.3),
        noise=random.uniform(0.006, 0.02),
        crowding=random.uniform(3, 8),
        debris=random.uniform(2, 14),
        focus=random.uniform(0.5, 1.2),
        shares=shares / shares.sum(),
    )


def _place(patch: np.ndarray, centre: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, bool]:
    """The patch on an empty scene, and whether all of it is in the picture."""
    layer = np.zeros(size, np.float32)
    half = patch.shape[0] // 2
    left, top = int(centre[0]) - half, int(centre[1]) - half
    x0, y0 = max(left, 0), max(top, 0)
    x1, y1 = min(left + patch.shape[1], size[1]), min(top + patch.shape[0], size[0])
    layer[y0:y1, x0:x1] = patch[y0 - top : y1 - top, x0 - left : x1 - left]
    cut = (patch > VISIBLE).sum() - (layer > VISIBLE).sum()
    return layer, bool(cut == 0)


def _defocus(patch: np.ndarray, blur: float) -> np.ndarray:
    """Blur, and the bright halo that a phase object has out of focus."""
    if blur < 0.3:
        return patch
    soft = cv2.GaussianBlur(patch, (0, 0), blur)
    return soft - 0.12 * min(blur, 1.5) * (cv2.GaussianBlur(soft, (0, 0), 2 * blur) - soft).clip(0)


def _debris(
    density: np.ndarray, sample: _Sample, random: np.random.Generator, scale: float
) -> None:
    """Flakes, fibres, grains and bubbles: dark like cells, and no cells."""
    height, width = density.shape[:2]
    for _ in range(random.poisson(sample.debris)):
        layer = np.zeros((height, width), np.uint8)
        x, y = random.uniform((0, 0), (width, height))
        kind = random.choice(["flake", "fibre", "grain", "bubble"], p=[0.35, 0.15, 0.4, 0.1])
        size = random.uniform(4, 22) * scale
        if kind == "flake":
            angles = np.sort(random.uniform(0, 2 * np.pi, 9))
            radii = size * random.uniform(0.35, 1, 9)
            points = np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], 1)
            cv2.fillPoly(layer, [points.astype(np.int32)], 255, cv2.LINE_AA)
        elif kind == "fibre":
            steps = np.cumsum(
                random.normal(0, size * 0.4, (8, 2)) + random.normal(0, size * 0.6, 2), 0
            )
            cv2.polylines(
                layer, [(steps + np.array([x, y])).astype(np.int32)], False, 255, 1, cv2.LINE_AA
            )
        elif kind == "grain":
            cv2.circle(layer, (int(x), int(y)), max(1, int(size * 0.12)), 255, -1, cv2.LINE_AA)
        else:
            cv2.circle(layer, (int(x), int(y)), max(2, int(size * 0.5)), 255, 1, cv2.LINE_AA)
        drawn = cv2.GaussianBlur(layer, (0, 0), random.uniform(0.5, 2.5)).astype(np.float32) / 255
        colour = random.uniform(0.5, 1.0, 3).astype(np.float32)
        density += random.uniform(0.1, 0.7) * drawn[..., None] * colour


def _camera(density: np.ndarray, sample: _Sample, random: np.random.Generator) -> np.ndarray:
    """Uneven light through the densities, vignetting, photon noise; 8 bit."""
    height, width = density.shape[:2]
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
    light = 1 + sample.tilt[0] * x + sample.tilt[1] * y - sample.vignette * (x**2 + y**2) / 2
    coarse = random.normal(0, 1, (height // 40 + 2, width // 40 + 2)).astype(np.float32)
    light += 0.015 * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    image = sample.colour * light[..., None] * np.exp(-1.15 * density)
    grain = random.normal(0, sample.noise, image.shape).astype(np.float32)
    image += grain * np.sqrt(np.maximum(image, 0.05))
    return (255 * image.clip(0, 1)).astype(np.uint8)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
