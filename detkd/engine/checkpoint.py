"""Checkpoints: one file that holds everything needed to go on, or to deploy.

Every checkpoint has `version`, `network` (detector or classifier), `config`, `classes`, `weights`
(of the network to use: averaged where averaging is on, without teacher and adapters), `score`
(best.pt: on the validation data, mAP or balanced accuracy) and `sixteen_bit` (the levels of 16-bit
images that were learned from, or None); last.pt has `training`, too. A classifier's checkpoints
have `division`, the digest of its sides; its best.pt has `decisions`: the temperature and the
thresholds that were chosen on its validation images.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

import detkd
from detkd.config import AnyExperiment
from detkd.engine.average import Average
from detkd.errors import CheckpointError
from detkd.files import write_with
from detkd.models.network import Network
from detkd.models.weights import read_checkpoint


@dataclass
class Progress:
    """How far a training has come: the next batch is number `batch` of epoch `epoch`."""

    epoch: int = 0
    batch: int = 0
    step: int = 0
    best: float = -1.0
    best_epoch: int = -1
    seconds: float = 0.0


@dataclass
class State:
    """Everything that a step changes."""

    trainable: nn.Module  # what is trained: a detector, or a distiller with its adapters
    network: Network  # what of it is kept
    optimizer: torch.optim.Optimizer
    average: Average | None
    progress: Progress
    fabric: Fabric


def save_checkpoint(
    path: Path,
    state: State,
    experiment: AnyExperiment,
    classes: tuple[str, ...],
    *,
    resumable: bool,
) -> None:
    """Write the state as a whole or not at all; only a resumable one holds `training`."""
    kept = state.average.network if state.average else state.network
    checkpoint: dict[str, Any] = {
        "version": detkd.__version__,
        "network": kept.kind,
        "config": experiment.as_dict(),
        "classes": list(classes),
        "weights": kept.state_dict(),
        "score": None if resumable else state.progress.best,
        "sixteen_bit": getattr(kept, "levels", None),
    }
    if division := getattr(kept, "division", None):
        checkpoint["division"] = division
    if resumable:
        checkpoint["training"] = {
            "trainable": state.trainable.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "average_updates": state.average.updates if state.average else 0,
            "precision": state.fabric.strategy.precision.state_dict(),
            "progress": vars(state.progress).copy(),
        }
    write_with(path, lambda stream: torch.save(checkpoint, stream))


def load_checkpoint(path: Path, state: State) -> None:
    """Put `state` back to where `path` was saved.

    Raises:
        CheckpointError: the file is broken, or of another training.
    """
    checkpoint = read_checkpoint(path)
    if "training" not in checkpoint:
        raise CheckpointError(f"{path}: has no training state to go on from; name a last.pt.")
    training = checkpoint["training"]
    try:
        state.trainable.load_state_dict(training["trainable"])
        state.optimizer.load_state_dict(training["optimizer"])
        if state.average:
            state.average.network.load_state_dict(checkpoint["weights"])
            state.average.updates = training["average_updates"]
        state.fabric.strategy.precision.load_state_dict(training["precision"])
        for name, value in training["progress"].items():
            setattr(state.progress, name, value)
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise CheckpointError(
            f"{path}: does not fit this training (another config or a broken file)."
        ) from error
