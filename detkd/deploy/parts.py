"""The detector's two networks alone: what any runtime can run, without NMS and RoIAlign."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

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


@dataclass
class Heard:
    """What the two networks said inside a detector: of each, what its file should say.

    `maps` as `Convolutions` gives them, the RoI `features` that `RegionHead` was given, and its
    `answers` to them.
    """

    maps: list[Tensor] = field(default_factory=list)
    features: Tensor | None = None
    answers: tuple[Tensor, ...] = ()


@contextmanager
def listening(detector: Detector) -> Iterator[Heard]:
    """Inside, what the networks say of the detector's last frame is heard, at no cost."""
    heard, pool = Heard(), detector.roi_heads.box_roi_pool

    def levels(_module: Any, _given: Any, said: dict[str, Tensor]) -> None:
        heard.maps = list(said.values())

    def proposing(_module: Any, _given: Any, said: tuple[list[Tensor], list[Tensor]]) -> None:
        reduced = pool.reduced(heard.maps) if pool.reduces else []
        heard.maps = [*heard.maps, *said[0], *said[1], *reduced]

    def features(_module: Any, given: tuple[Tensor]) -> None:
        heard.features = given[0]

    def answers(_module: Any, _given: Any, said: tuple[Tensor, ...]) -> None:
        heard.answers = said

    heads = detector.roi_heads
    with ExitStack() as stack:
        for hook in (
            detector.backbone.register_forward_hook(levels),
            detector.rpn.head.register_forward_hook(proposing),
            heads.box_head.register_forward_pre_hook(features),
            heads.box_predictor.register_forward_hook(answers),
        ):
            stack.callback(hook.remove)
        yield heard
