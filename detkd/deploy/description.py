"""What a program has to know to use an exported model, as detkd.json has it."""

from __future__ import annotations

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
        "format": 1,
        "detkd": detkd.__version__,
        "model": "model.onnx",
        "opset": OPSET,
        "input": INPUT,
        "outputs": list(OUTPUTS),
        "classes": list(detector.classes),
        "image_size": detector.image_size,
        "detections": detector.config.detections,
        "score_threshold": detector.config.score_threshold,
        "thresholds": dict(zip(detector.classes, scores, strict=True)),
        "sixteen_bit": {"low": levels[0], "high": levels[1]} if levels else None,
        "um_per_px": um_per_px,
        "shapes": {name: card.shapes[name] for name in detector.classes if name in card.shapes}
        if card
        else {},
        "card": asdict(card) if card else None,
        # Done inside the graph; told for those who ask.
        "normalisation": {"mean": transform.image_mean, "std": transform.image_std},
        "training": {"config": config},
    }
