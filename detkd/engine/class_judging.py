"""Judging a classifier: what is chosen on its validation images, and what is told of others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from detkd.data.class_dataset import ClassDataset
from detkd.engine.class_parts import predict_classes
from detkd.engine.curves import plot_curves
from detkd.engine.run import RunFolder
from detkd.evaluation.calibration import scaled
from detkd.evaluation.class_intervals import DRAWS
from detkd.evaluation.class_judge import ClassPredictions, judge_classes
from detkd.evaluation.class_plots import plot_classes
from detkd.evaluation.decisions import Decisions, choose_decisions
from detkd.files import write_json, write_with
from detkd.models.backbones import TimmBackbone
from detkd.models.classifier import Classifier, without_exits
from detkd.models.early_exit import LAST, exit_flops
from detkd.models.weights import read_checkpoint


def decide(network: Classifier, said: ClassPredictions, source: object) -> Decisions:
    """Temperature and thresholds by what the network said of its validation images."""
    exits = said.exits if _can_stop(network) else None
    return choose_decisions(said.logits, said.labels, exits, _images(said, "val", source))


def judge_said(
    network: Classifier,
    said: ClassPredictions,
    decisions: Decisions,
    *,
    side: str | None,
    source: object,
    foreign: ClassPredictions | None = None,
    bootstrap: int = DRAWS,
) -> dict[str, Any]:
    """All that is known about what the network said; see `judge_classes`.

    Args:
        side: of the network's own data, val or test; None for other images.
        source: where the images are from.
    """
    flops, alone = None, 0
    if _can_stop(network):
        size = network.image_size
        flops, alone = exit_flops(network, size), exit_flops(without_exits(network), size)[LAST]
    metrics = judge_classes(
        said, decisions, foreign=foreign, flops=flops, alone=alone, bootstrap=bootstrap
    )
    chosen_on = dict(decisions.chosen_on)
    return {
        "measured_on": _images(said, side, source),
        # Whether temperature and thresholds were chosen on these very images; then they flatter.
        "chosen_on": {**chosen_on, "measured_there": side == chosen_on["side"]},
        **metrics,
    }


def write_class_judgement(
    folder: Path, said: ClassPredictions, metrics: dict[str, Any], root: Path
) -> None:
    """Write metrics.json, predictions.json and plots/ into `folder`; images lie below `root`."""
    write_json(folder / "metrics.json", metrics)
    write_json(folder / "predictions.json", said.as_dict())
    files = [root / file for file in said.files]
    mended = scaled(said.logits, metrics["calibration"]["temperature"])
    plot_classes(said.probabilities, said.labels, said.classes, files, folder / "plots", mended)


def final_class_judgement(
    run: RunFolder, dataset: ClassDataset, device: torch.device
) -> dict[str, Any]:
    """Judge the best checkpoint whole: metrics.json, predictions.json and plots/.

    What is chosen on these images, the validation's, goes into the checkpoint.
    """
    network = Classifier.load(run.best).to(device)
    said = predict_classes(network, dataset)
    source = dataset.data.source
    decisions = decide(network, said, source)
    write_checkpoint(run.best, {**read_checkpoint(run.best), "decisions": vars(decisions)})
    metrics = judge_said(network, said, decisions, side="val", source=source)
    write_class_judgement(run.path, said, metrics, dataset.data.root)
    plot_curves(run)
    return metrics


def write_checkpoint(path: Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint as a whole or not at all."""
    write_with(path, lambda stream: torch.save(checkpoint, stream))


def _can_stop(network: Classifier) -> bool:
    """Whether there are exits at which it can stop; timm's networks run as a whole."""
    return bool(network.exits) and not isinstance(network.backbone, TimmBackbone)


def _images(said: ClassPredictions, side: str | None, source: object) -> dict[str, Any]:
    return {
        "side": side,
        "source": str(source),
        "images": len(said.files),
        "samples": len(set(said.groups)),
    }
