"""Pictures of the frames on which an exported model and its checkpoint differ."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from detkd.deploy.parity import Difference, Found

SIDE = 640  # px of a picture's longest side, at least
GREY, RED, BLUE = (150, 150, 150), (40, 40, 230), (230, 120, 20)  # BGR


@dataclass(frozen=True)
class Differing:
    """A frame [3, H, W] on which the two differ, and what each found."""

    name: str
    frame: np.ndarray
    checkpoint: Found
    exported: Found
    gap: Difference


def draw(differing: Differing) -> np.ndarray:
    """The frame, BGR: in red what only the checkpoint found, in blue only the exported model."""
    image = (differing.frame.transpose(1, 2, 0)[..., ::-1] * 255).clip(0, 255).astype(np.uint8)
    scale = max(1, round(SIDE / max(image.shape[:2])))
    image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    sides = (
        (differing.checkpoint, set(differing.gap.missing), RED, "checkpoint"),
        (differing.exported, set(differing.gap.extra), BLUE, "exported"),
    )
    for found, alone, colour, who in sides:
        for at, (box, score, label) in enumerate(
            zip(found.boxes, found.scores, found.labels, strict=True)
        ):
            x1, y1, x2, y2 = (round(side) for side in (box * scale).tolist())
            if at in alone:
                cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2)
                text = f"{who} {label} {score:.5f}"
                cv2.putText(image, text, (x1, max(12, y1 - 4)), 0, 0.45, colour, 1, cv2.LINE_AA)
            elif who == "checkpoint":
                cv2.rectangle(image, (x1, y1), (x2, y2), GREY, 1)
    return image


def write_pictures(frames: Iterable[Differing], folder: Path) -> list[str]:
    """A PNG of each frame, the first one first; their names."""
    names = []
    for at, differing in enumerate(frames, start=1):
        folder.mkdir(exist_ok=True)
        names.append(f"{at:02} {re.sub(r'[^0-9A-Za-z._-]+', '_', differing.name)[:80]}.png")
        # Through memory: what OpenCV cannot write it does not say.
        (folder / names[-1]).write_bytes(cv2.imencode(".png", draw(differing))[1].tobytes())
    return names
