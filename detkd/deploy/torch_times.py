"""Where the time of a detector in torch goes: its real forward pass, timed at the joints."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from detkd.models.detector import Detector

POOL = "roi_heads.box_roi_pool"
TIMED = (
    *("backbone.body", "backbone.neck", "rpn", "rpn.head", "roi_heads"),
    *(POOL, f"{POOL}.reduce", "roi_heads.box_head", "roi_heads.box_predictor"),
)
Clock = Callable[[], float]


@torch.no_grad()
def torch_times(
    detector: Detector, frame: Tensor, clock: Clock = time.perf_counter
) -> dict[str, float]:
    """Seconds of each part (see `detkd.models.costs.PARTS`) for one frame [3, H, W].

    They add up to the whole of this forward pass: what a module's own parts do not take is its
    proposals (anchors, decoding and suppression) or detections, and the rest is normalising,
    batching and what lies between the modules.
    """
    with _spans(detector, clock) as spans:
        began = clock()
        detector([frame])
        whole = clock() - began
    head = spans["roi_heads.box_head"] + spans["roi_heads.box_predictor"]
    parts = {
        "backbone": spans["backbone.body"],
        "neck": spans["backbone.neck"],
        "rpn_head": spans["rpn.head"],
        "proposals": spans["rpn"] - spans["rpn.head"],
        "roi_align": spans[POOL] - spans[f"{POOL}.reduce"],
        "roi_head": spans[f"{POOL}.reduce"] + head,
        "detections": spans["roi_heads"] - spans[POOL] - head,
    }
    return {**parts, "rest": whole - sum(parts.values())}


@contextmanager
def _spans(detector: Detector, clock: Clock) -> Iterator[dict[str, float]]:
    """Seconds inside each of the timed modules, filled while the detector runs."""
    spans: dict[str, float] = defaultdict(float)
    began: dict[str, float] = {}
    hooks = []
    for name, module in detector.named_modules():
        if name not in TIMED:
            continue

        def start(_: Any, __: Any, name: str = name) -> None:
            began[name] = clock()

        def stop(_: Any, __: Any, ___: Any, name: str = name) -> None:
            spans[name] += clock() - began.pop(name)

        hooks += [module.register_forward_pre_hook(start), module.register_forward_hook(stop)]
    try:
        yield spans
    finally:
        for hook in hooks:
            hook.remove()
