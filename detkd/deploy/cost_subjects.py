"""The detectors whose cost is measured, and the frames that they are measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from detkd.config import ModelConfig
from detkd.data.dataset import CocoDataset
from detkd.errors import DataError
from detkd.models.detector import Detector, FitInside, build_detector

STRIDES_WIDE = 4.0  # a stand-in for an anchor that only the training boxes can say


def noise_frame(image_size: int) -> Tensor:
    """A square frame [3, S, S] of noise from 0 to 1, the same each time."""
    return torch.rand(3, image_size, image_size, generator=torch.Generator().manual_seed(0))


def real_frames(truth: Path, images: Path | None, image_size: int, count: int) -> list[Tensor]:
    """The first images of a COCO file, as a detector of this size sees them.

    Raises:
        DataError: the file or its images cannot be used, or it has none.
    """
    dataset = CocoDataset(truth, images=images, image_size=image_size, cache="none")
    if not len(dataset):
        raise DataError(f"{truth}: has no images to measure on; name a file that has some.")
    return [dataset[at][0] for at in range(min(count, len(dataset)))]


def untrained_detector(
    model: ModelConfig, classes: int, image_size: int, frames: Sequence[Tensor]
) -> Detector:
    """A detector of random weights (seed 0) that costs what a trained one of this config costs.

    Its norms are measured on the frames: with those of a fresh network deep features fade, all
    anchors look alike, and suppression has less to do than the config says. Anchors that are to
    be measured on boxes are four strides wide.

    Raises:
        ConfigError: the config describes no detector.
    """
    model = replace(model, weights=None)  # what the weights are costs nothing
    if isinstance(model.anchor_sizes, str):
        sizes = [[STRIDES_WIDE * 2 ** int(level[1:])] for level in model.levels]
        model = replace(model, anchor_sizes=sizes)
    torch.manual_seed(0)
    detector = build_detector(model, [str(at) for at in range(1, classes + 1)], image_size)
    for norm in detector.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = None  # the mean over all frames
    with torch.no_grad():
        detector.train()
        detector.levels_of(detector.transform(list(frames) * 2)[0])
    return detector.eval()


def at_size(detector: Detector, image_size: int) -> Detector:
    """The detector as it is for frames of another size."""
    body = detector.backbone.body
    detector.image_size = image_size
    detector.transform = FitInside(image_size, body.mean, body.std)
    return detector
