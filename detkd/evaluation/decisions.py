"""What is chosen once, on validation images, for all images that come later."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from detkd.errors import CheckpointError
from detkd.evaluation.calibration import fit_temperature, scaled
from detkd.evaluation.early import early_threshold, stopped
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
        chosen_on: the images: their `side` and `source`, how many `images` of how many `samples`,
            and a `digest` by which they are known again.
        early_temperature: the temperature of what images say that stop at an exit that is sure,
            and
        early_unknown: the threshold of 'unknown' for these. An exit is less sure of itself than
            the head, or more.
    """

    temperature: float
    accuracy: float
    unknown: float | None
    early: float | None
    chosen_on: Mapping[str, Any]
    early_temperature: float | None = None
    early_unknown: float | None = None

    @property
    def of_early(self) -> Decisions:
        """Those for images that stop early: their own temperature and threshold of 'unknown'."""
        assert self.early_temperature is not None
        return replace(self, temperature=self.early_temperature, unknown=self.early_unknown)


def choose_decisions(
    logits: np.ndarray,
    labels: np.ndarray,
    exits: np.ndarray | None,
    chosen_on: Mapping[str, Any],
    *,
    accuracy: float = ACCURACY,
) -> Decisions:
    """Decisions by the logits [N, K] of images with labels [N], and those of exits [N, E, K]."""
    early = math.inf if exits is None else early_threshold(exits, labels)
    decided = partial(_decided, labels=labels, accuracy=accuracy)
    temperature, unknown = decided(logits)
    if exits is None or not math.isfinite(early):
        return Decisions(temperature, accuracy, unknown, None, dict(chosen_on))
    return Decisions(
        temperature, accuracy, unknown, early, dict(chosen_on), *decided(stopped(exits, early))
    )


def _decided(logits: np.ndarray, labels: np.ndarray, accuracy: float) -> tuple[float, float | None]:
    """The temperature of logits, and the threshold of 'unknown'."""
    temperature = fit_temperature(logits, labels)
    return temperature, unknown_threshold(scaled(logits, temperature), labels, accuracy=accuracy)


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
        numbers |= {name: said.get(name) for name in ("early_temperature", "early_unknown")}
        found = Decisions(**numbers, chosen_on=dict(said["chosen_on"]))
        known = [value for value in numbers.values() if value is not None]
        temperatures = (found.temperature, found.early_temperature)
        if any(t is not None and t <= 0 for t in temperatures) or not all(
            map(math.isfinite, known)
        ):
            raise ValueError("not finite, or a temperature that is not above 0")
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: its temperature and thresholds cannot be understood ({error}); take an "
            "intact file."
        ) from error
    return found
