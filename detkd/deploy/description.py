"""What a program has to know to use an exported model, as detkd.json has it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import detkd
from detkd.data.card import Card
from detkd.data.dataset import CocoDataset
from detkd.deploy.onnx_model import INPUT, OPSET, OUTPUTS
from detkd.errors import DataError
from detkd.evaluation.thresholds import USUAL, read_thresholds
from detkd.models.detector import Detector
from detkd.models.network import Network
from detkd.pixels import Levels


def describe(
    detector: Detector,
    config: dict[str, Any],
    dataset: CocoDataset | None,
    thresholds: Path | None,
    um_per_px: float | None,
    card: Card | None,
) -> dict[str, Any]:
    """Classes (label 1 first), sizes, 16-bit levels, thresholds, scale, card of the data, training.

    `config` is that of the training, as the checkpoint has it.

    Raises:
        DataError: thresholds that are not those of the detector's classes, or a card of others.
    """
    scores = [USUAL] * len(detector.classes)
    if thresholds:
        scores = read_thresholds(thresholds, detector.classes).tolist()
    levels = detector.levels or (dataset.levels if dataset is not None else None)
    if card and (others := sorted(set(detector.classes) - set(card.classes))):
        raise DataError(f"--card: does not name the class '{others[0]}', which the detector knows.")
    transform = detector.transform
    return {
        **described(detector, levels, INPUT, OUTPUTS, transform.image_mean, transform.image_std),
        "detections": detector.config.detections,
        "score_threshold": detector.config.score_threshold,
        "thresholds": dict(zip(detector.classes, scores, strict=True)),
        "um_per_px": um_per_px,
        "shapes": {name: card.shapes[name] for name in detector.classes if name in card.shapes}
        if card
        else {},
        "card": asdict(card) if card else None,
        "training": {"config": config},
    }


def described(
    network: Network,
    levels: Levels | None,
    given: str,
    said: Sequence[str],
    mean: Sequence[float],
    std: Sequence[float],
) -> dict[str, Any]:
    """What is told of every exported network: its file, inputs and outputs, classes, images."""
    return {
        "format": 1,
        "detkd": detkd.__version__,
        "model": "model.onnx",
        "opset": OPSET,
        "input": given,
        "outputs": list(said),
        "classes": list(network.classes),
        "image_size": network.image_size,
        "sixteen_bit": {"low": levels[0], "high": levels[1]} if levels else None,
        # Done inside the graph; told for those who ask.
        "normalisation": {"mean": list(mean), "std": list(std)},
    }
