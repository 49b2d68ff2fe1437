"""Reading named features out of a running detector."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList

from detkd.errors import ConfigError
from detkd.models.detector import Detector
from detkd.models.network import Network

HEAD_FEATURES = (
    "roi.logits",
    "roi.boxes",
    "cross.logits",
    "cross.boxes",
    "rpn.logits",
    "rpn.boxes",
)
ONE_CELL = ("pooled", "logits")  # a classifier's features that have no extent


@dataclass
class Reading:
    """What one forward pass of a detector said.

    `features` has c2..c5 and p2..p6 [N, C, h, w] and, in training, roi.logits [R, K+1] ([R, K] of
    sigmoids) and roi.boxes [R, 4(K+1)]; `proposals` are the boxes [R_n, 4] of each image that the
    RoI head was given, row by row those of roi.logits. Of the RPN there are `objectness`
    [N, A, h, w] and `deltas` [N, 4A, h, w] of each level, and `anchors` [M, 4], the same for every
    image.
    `image_sizes` and `padded_size` are those of the batch; `targets` are in its frame.
    """

    features: dict[str, Tensor] = field(default_factory=dict)
    proposals: list[Tensor] = field(default_factory=list)
    image_sizes: list[tuple[int, int]] = field(default_factory=list)
    padded_size: tuple[int, int] = (0, 0)
    targets: list[dict[str, Tensor]] = field(default_factory=list)
    objectness: dict[str, Tensor] = field(default_factory=dict)
    deltas: dict[str, Tensor] = field(default_factory=dict)
    anchors: Tensor = field(default_factory=lambda: torch.zeros(0, 4))


@contextmanager
def read(detector: Detector) -> Iterator[Reading]:
    """Fill a `Reading` while the detector runs inside the `with`; no hook stays behind."""
    reading = Reading()

    def transform(module: Any, inputs: Any, output: Any) -> None:
        images, targets = output
        reading.image_sizes = [(int(h), int(w)) for h, w in images.image_sizes]
        reading.padded_size = padded_size(images)
        reading.targets = list(targets or [])

    def maps(module: Any, inputs: Any, output: dict[str, Tensor]) -> None:
        reading.features.update(output)

    def pooled(module: Any, inputs: Any, output: Tensor) -> None:
        reading.proposals = list(inputs[1])

    def predicted(module: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        reading.features["roi.logits"], reading.features["roi.boxes"] = output

    def proposed(module: Any, inputs: Any, output: tuple[list[Tensor], list[Tensor]]) -> None:
        levels = list(detector.backbone.neck.features)
        reading.objectness = dict(zip(levels, output[0], strict=True))
        reading.deltas = dict(zip(levels, output[1], strict=True))

    def anchored(module: Any, inputs: Any, output: list[Tensor]) -> None:
        reading.anchors = output[0]

    hooks = [
        detector.transform.register_forward_hook(transform),
        detector.backbone.body.register_forward_hook(maps),
        detector.backbone.neck.register_forward_hook(maps),
        detector.rpn.head.register_forward_hook(proposed),
        detector.rpn.anchor_generator.register_forward_hook(anchored),
        detector.roi_heads.box_roi_pool.register_forward_hook(pooled),
        detector.roi_heads.box_predictor.register_forward_hook(predicted),
    ]
    try:
        yield reading
    finally:
        for hook in hooks:
            hook.remove()


def padded_size(batch: ImageList) -> tuple[int, int]:
    """Height and width of a batch, padding counted."""
    height, width = batch.tensors.shape[-2:]
    return int(height), int(width)


def check_feature(name: str, network: Network, whose: str) -> None:
    """Refuse a feature that `network` does not have.

    Raises:
        ConfigError: with the list of those that it has.
    """
    heads = HEAD_FEATURES if isinstance(network, Detector) else ()
    if name in heads or name in network.features:
        return
    there = [f"{key} ({feature})" for key, feature in network.features.items()]
    raise ConfigError(
        f"distill.losses: no feature '{name}' in the {whose} '{network.config.backbone}'; "
        f"it has {', '.join([*there, *heads])}."
    )
