"""What a teacher's RPN says of its levels, as maps that can be kept beside them.

`rpn@p3` [N, 5A, h, w] is of level p3: the objectness of its A anchors a cell, then their deltas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detkd.models.backbones import Feature
from detkd.models.detector import Detector

ByLevel = dict[str, Tensor]


def rpn_features(detector: Detector) -> dict[str, Feature]:
    """The maps by name, and what each is."""
    anchors = detector.rpn.anchor_generator.num_anchors_per_location()
    levels = detector.backbone.neck.features.items()
    return {
        f"rpn@{name}": Feature(5 * each, level.stride)
        for (name, level), each in zip(levels, anchors, strict=True)
    }


def rpn_maps(detector: Detector, maps: Mapping[str, Tensor]) -> ByLevel:
    """The maps, made of the levels [N, C, h, w] in `maps`."""
    levels = list(detector.backbone.neck.features)
    said = zip(*detector.rpn.head([maps[name] for name in levels]), strict=True)
    return {f"rpn@{name}": torch.cat(both, 1) for name, both in zip(levels, said, strict=True)}


def objectness_and_deltas(
    levels: Sequence[str], maps: Mapping[str, Tensor]
) -> tuple[ByLevel, ByLevel]:
    """Of each level the objectness [N, A, h, w] and the deltas [N, 4A, h, w], of those maps."""
    said = {name: maps[f"rpn@{name}"] for name in levels}
    anchors = {name: each.shape[1] // 5 for name, each in said.items()}
    return (
        {name: each[:, : anchors[name]] for name, each in said.items()},
        {name: each[:, anchors[name] :] for name, each in said.items()},
    )
