"""What is chosen once, on validation images, for all images that come later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from detkd.errors import CheckpointError
from detkd.evaluation.calibration import fit_temperature, scaled
from detkd.evaluation.early import early_threshold
from detkd.evaluation.unknown import unknown_threshold

ACCURACY = 0.95  # of what gets a class


@dataclass(frozen=True)
class Decisions:
    """The temperature, and the thresholds of probabilities at that temperature.

    Args:
        temperature: by which logits are divided, before a probability is believed.
        accuracy: the share of right ones that was asked of images that get a class.
        unknown: the probability below which an image is 'unknown'. None if no threshold reaches
            that accuracy: then every image is.
        early: the probability, without the temperature, from which on an exit is sure; None if
            none ever is, or there are no exits.
        chosen_on: the images: their `side` and `source`, how many `images` of how many `samples`.
    """

    temperature: float
    accuracy: float
    unknown: float | None
    early: float | None
    chosen_on: Mapping[str, Any]


def choose_decisions(
    logits: np.ndarray,
    labels: np.ndarray,
    exits: np.ndarray | None,
    chosen_on: Mapping[str, Any],
    *,
    accuracy: float = ACCURACY,
) -> Decisions:
    """Decisions by the logits [N, K] of images with labels [N], and those of exits [N, E, K]."""
    temperature = fit_temperature(logits, labels)
    unknown = unknown_threshold(scaled(logits, temperature), labels, accuracy=accuracy)
    early = math.inf if exits is None else early_threshold(exits, labels)
    sure = early if math.isfinite(early) else None
    return Decisions(temperature, accuracy, unknown, sure, dict(chosen_on))


def decisions_in(checkpoint: Mapping[str, Any], path: object) -> Decisions | None:
    """The decisions that a checkpoint holds, or the description of an export; None without any.

    Raises:
        CheckpointError: they are no such numbers.
    """
    said = checkpoint.get("decisions")
    if said is None:
        return None
    try:
        numbers = {name: said[name] for name in ("temperature", "accuracy", "unknown", "early")}
        found = Decisions(**numbers, chosen_on=dict(said["chosen_on"]))
        known = [value for value in numbers.values() if value is not None]
        if found.temperature <= 0 or not all(map(math.isfinite, known)):
            raise ValueError("not finite, or a temperature that is not above 0")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its temperature and thresholds cannot be understood ({error}); take an "
            "intact file."
        ) from error
    return found
