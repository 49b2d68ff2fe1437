"""What a teacher's heads make of its levels, as maps that can be kept with them or in their place.

`rpn@p3` [N, 5A, h, w] is of level p3: the objectness of its A anchors a cell, then their deltas.
`roi@p3` [N, c, h, w] is what RoIs are cut out of, where that is not the level itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from detkd.models.backbones import Feature
from detkd.models.detector import Detector

ByLevel = dict[str, Tensor]


def rpn_features(detector: Detector) -> dict[str, Feature]:
    """The maps of the RPN by name, and what each is."""
    anchors = detector.rpn.anchor_generator.num_anchors_per_location()
    levels = detector.backbone.neck.features.items()
    return {
        f"rpn@{name}": Feature(5 * each, level.stride)
        for (name, level), each in zip(levels, anchors, strict=True)
    }


def roi_features(detector: Detector) -> dict[str, Feature]:
    """The maps of the RoI head by name, and what each is; none where it reads the levels."""
    pool = detector.roi_heads.box_roi_pool
    if not pool.reduces:
        return {}
    levels = detector.backbone.neck.features.items()
    return {
        f"roi@{name}": Feature(pool.reduce.out_channels, level.stride) for name, level in levels
    }


def head_maps(detector: Detector, maps: Mapping[str, Tensor]) -> ByLevel:
    """The maps of both heads, made of the levels [N, C, h, w] in `maps`."""
    names = list(detector.backbone.neck.features)
    levels = [maps[name] for name in names]
    said = zip(*detector.rpn.head(levels), strict=True)
    found = {f"rpn@{name}": torch.cat(both, 1) for name, both in zip(names, said, strict=True)}
    reduced = detector.roi_heads.box_roi_pool.reduced(levels)
    return found | {f"roi@{name}": each for name, each in zip(names, reduced, strict=True)}


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
