"""Images and boxes to classes, with 'unknown' where the classifier is not sure enough."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detkd.data.class_inputs import Asked, pixels_of
from detkd.data.crops import UNKNOWN
from detkd.errors import ConfigError
from detkd.evaluation.calibration import scaled
from detkd.evaluation.decisions import Decisions
from detkd.models.classifier import Classifier
from detkd.models.early_exit import each_exit, first_sure
from detkd.pixels import Levels


@dataclass(frozen=True)
class Answering:
    """A classifier at work, from a checkpoint or an export.

    Args:
        logits: [N, K] of images [N, 3, S, S] float32 from 0 to 1.
        classes: K names.
        image_size: S in px.
        levels: what becomes 0 and 255 in 16-bit images.
        decisions: its temperature and thresholds, if it knows them.
        early: of images [N, 3, S, S], the exits where they stopped, and their logits there [N, K];
            None where all go through the whole network.
    """

    logits: Callable[[np.ndarray], np.ndarray]
    classes: tuple[str, ...]
    image_size: int
    levels: Levels | None
    decisions: Decisions | None
    early: Callable[[np.ndarray], tuple[list[str], np.ndarray]] | None = None


@dataclass(frozen=True)
class Answer:
    """The most likely class and its probability; `label` is that class, or 'unknown' below the
    threshold; `exit` is where it stopped early. Of what could not be looked at, only `problem`."""

    label: str = ""
    probability: float | None = None
    most_likely: str = ""
    problem: str = ""
    exit: str = ""


def answering(network: Classifier, decisions: Decisions | None, device: str) -> Answering:
    """A network at work on a device."""
    network.to(device).eval()

    @torch.no_grad()
    def logits(images: np.ndarray) -> np.ndarray:
        found = network(torch.from_numpy(images).to(device))
        return torch.stack([each["logits"] for each in found]).cpu().numpy()

    return Answering(logits, network.classes, network.image_size, network.levels, decisions)


def answering_early(network: Classifier, decisions: Decisions | None, device: str) -> Answering:
    """A network at work that stops each image at the first exit that is sure of it.

    Raises:
        ConfigError: it has no exits, or no threshold from which on one is sure.
    """
    if not network.exits:
        raise ConfigError(
            "the classifier has no exits; train one with model.exits, or leave --early out."
        )
    if network.backbone.whole:
        raise ConfigError(
            "this network of timm runs as a whole: it cannot stop early; leave --early out."
        )
    whole = answering(network, decisions, device)

    def exits(images: np.ndarray) -> Iterator[tuple[str, Tensor]]:
        return each_exit(network, torch.from_numpy(images).to(device))

    return stopping(whole, exits)


def stopping(
    whole: Answering, exits: Callable[[np.ndarray], Iterator[tuple[str, Tensor]]]
) -> Answering:
    """A classifier that stops each image at the first exit that is sure of it.

    Args:
        whole: the same, where all go to the end.
        exits: gives the logits [N, K] of each exit by its name, the head's last, when asked for.

    Raises:
        ConfigError: there is no threshold from which on one is sure.
    """
    decisions = whole.decisions
    if decisions and decisions.early is None:
        raise ConfigError("no exit was sure enough on the validation images; leave --early out.")
    if decisions is None or decisions.early is None or decisions.early_temperature is None:
        raise ConfigError(
            "the checkpoint does not say when an exit is sure and what that is worth, for its "
            "training has not ended (--resume goes on with it), or it is of an older detkd; leave "
            "--early out."
        )
    sure = decisions.early

    @torch.no_grad()
    def early(images: np.ndarray) -> tuple[list[str], np.ndarray]:
        stopped = [first_sure(exits(image[None]), sure) for image in images]
        return [name for name, _ in stopped], torch.stack([x for _, x in stopped]).cpu().numpy()

    return replace(whole, early=early, decisions=decisions.of_early)


def classify(
    model: Answering,
    asked: Sequence[Asked],
    root: Path,
    *,
    temperature: float,
    threshold: float,
    margin: float = 0.1,
    batch_size: int = 32,
) -> Iterator[Answer]:
    """The answer to each, in their order; images lie below `root`.

    Args:
        temperature: divides the logits.
        threshold: of a probability, below which the label is 'unknown'.
        margin: of boxes, as the crops had it that were learned from.
    """
    looked = pixels_of(asked, root, image_size=model.image_size, levels=model.levels, margin=margin)
    while batch := list(islice(looked, batch_size)):
        images = [each for each in batch if not isinstance(each, str)]
        said = iter(_said(model, np.stack(images), temperature) if images else ())
        for each in batch:
            if isinstance(each, str):
                yield Answer(problem=each)
                continue
            stopped, probabilities = next(said)
            best = int(probabilities.argmax())
            sure, name = float(probabilities[best]), model.classes[best]
            yield Answer(name if sure >= threshold else UNKNOWN, sure, name, exit=stopped)


def _said(
    model: Answering, images: np.ndarray, temperature: float
) -> Iterator[tuple[str, np.ndarray]]:
    """Of each image the exit where it stopped, if it could, and the probabilities [K]."""
    if model.early:
        stopped, logits = model.early(images)
    else:
        stopped, logits = [""] * len(images), model.logits(images)
    return zip(stopped, scaled(logits, temperature), strict=True)
