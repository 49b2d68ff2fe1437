"""The detector's two networks alone: what any runtime can run, without NMS and RoIAlign."""

from __future__ import annotations

from itertools import chain

import torch.nn.functional as F
from torch import Tensor, nn

from detkd.models.detector import Detector


class Convolutions(nn.Module):
    """Frames [N, 3, H, W] to maps: of each level its features, objectness and box deltas.

    Frames are RGB from 0 to 1; they are normalised and padded in here. The maps come in the order
    of `names`: the levels [N, C, h, w], then objectness [N, A, h, w], then deltas [N, 4A, h, w];
    where RoIs are cut out of reduced levels, these come last [N, c, h, w].
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.transform, self.backbone = detector.transform, detector.backbone
        self.rpn_head = detector.rpn.head
        self.box_roi_pool = detector.roi_heads.box_roi_pool
        levels = list(detector.backbone.neck.features)
        kinds = ["", "objectness_", "deltas_", *(["reduced_"] if self.box_roi_pool.reduces else [])]
        self.names = [f"{kind}{at}" for kind in kinds for at in levels]
        self.eval()

    def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
        height, width = frames.shape[-2:]
        multiple = self.transform.size_divisible
        normal = self.transform.normalize(frames)
        padded = F.pad(normal, (0, -width % multiple, 0, -height % multiple))
        levels = list(self.backbone(padded, [(height, width)]).values())
        maps = chain(levels, *self.rpn_head(levels))
        pool = self.box_roi_pool
        return (*maps, *pool.reduced(levels)) if pool.reduces else tuple(maps)


class RegionHead(nn.Module):
    """Pooled features [R, C, s, s] to class logits [R, K+1] and box deltas [R, 4(K+1)].

    With `model.classifier: sigmoid` the logits are [R, K].
    """

    names = ("class_logits", "box_deltas")

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        heads = detector.roi_heads
        self.box_head, self.box_predictor = heads.box_head, heads.box_predictor
        self.eval()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits, deltas = self.box_predictor(self.box_head(features))
        return logits, deltas
