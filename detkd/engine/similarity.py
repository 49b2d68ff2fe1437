"""How alike two networks see: centred kernel alignment of their features, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
import yaml
from torch import Tensor

from detkd.config import HeadsConfig
from detkd.distill.sharing import apply_sharing, plan_sharing
from detkd.engine.run import RunFolder
from detkd.errors import UserError
from detkd.models.detector import Detector, build_detector

CELLS = 2048  # of each level that are compared, spread over the images


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA of features [n, p] and [n, q] of the same n cells (Kornblith et al., ICML 2019).

        ‖Yᵀ X‖² / (‖Xᵀ X‖ ‖Yᵀ Y‖), both centred, Frobenius norms

    Between 0 and 1; 1 for features that agree up to rotation, scale and shift.
    """
    x, y = (each.double() - each.double().mean(0) for each in (x, y))
    scale = (x.T @ x).norm() * (y.T @ y).norm()
    return float((y.T @ x).square().sum() / scale.clamp(min=1e-30))


@torch.no_grad()
def similarity(
    start: Detector, student: Detector, teacher: Detector, images: Sequence[Tensor]
) -> dict[str, dict[str, float]]:
    """CKA with the teacher of each feature that both have: `before` and `after` training.

    Before means at the `start` of the student's training.
    """
    theirs = _cells(teacher, images)
    found: dict[str, dict[str, float]] = {}
    for when, network in (("before", start.eval()), ("after", student.eval())):
        for name, cells in _cells(network, images).items():
            if name in theirs and cells.shape[0] == theirs[name].shape[0]:
                found.setdefault(name, {})[when] = cka(cells, theirs[name])
    return found


def start_of(run: RunFolder, student: Detector) -> Detector:
    """The student as its run began: its seed's weights, a backbone's from a file, inherited heads.

    What lies in files that are gone is left out.
    """
    tree: Any = {}
    with suppress(OSError, UnicodeDecodeError, yaml.YAMLError):
        tree = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    config: dict[str, Any] = tree if isinstance(tree, dict) else {}
    weights, distill = config.get("model", {}).get("weights"), config.get("distill")

    def built(weights: str | None) -> Detector:
        torch.manual_seed(config.get("train", {}).get("seed", 0))
        model = replace(student.config, weights=weights)
        return build_detector(model, student.classes, student.image_size)

    try:
        start = built(weights)
    except UserError:
        start = built(None)
    if distill:
        with suppress(UserError):
            heads, teacher = distill["heads"], Detector.load(distill["teacher"])
            take = HeadsConfig(**heads) if isinstance(heads, dict) else heads
            apply_sharing(plan_sharing(start, teacher, take), start, teacher)
    return start


def _cells(network: Detector, images: Sequence[Tensor]) -> dict[str, Tensor]:
    """Features [n, C] at evenly spread cells of each map."""
    kept: dict[str, list[Tensor]] = {}
    for image in images:
        batch, _ = network.transform([image], None)
        for name, maps in network.maps_of(batch).items():
            cells = maps[0].flatten(1).T
            step = max(1, len(cells) * len(images) // CELLS)
            kept.setdefault(name, []).append(cells[::step])
    return {name: torch.cat(cells) for name, cells in kept.items()}
