"""What a detector costs: parameters, operations, milliseconds."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import torch

from detkd.models.detector import Detector


@dataclass(frozen=True)
class Cost:
    """`backbone` and `parameters` count weights; `gflops` counts multiply and add apart."""

    backbone: int
    parameters: int
    gflops: float
    milliseconds: float


@torch.no_grad()
def measure_cost(detector: Detector, image: torch.Tensor, *, repeats: int = 15) -> Cost:
    """Cost of one image [3, H, W] on the CPU with one thread (median of `repeats`).

    Operations are those of convolutions and matrix products; RoIAlign and non-maximum
    suppression have none of them, and count in the milliseconds only.
    """
    from torch.utils.flop_counter import FlopCounterMode

    detector = detector.cpu().eval()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with FlopCounterMode(display=False) as counter:
            detector([image])
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            detector([image])
            times.append(1000 * (time.perf_counter() - began))
    finally:
        torch.set_num_threads(threads)
    return Cost(
        backbone=_count(detector.backbone.body),
        parameters=_count(detector),
        gflops=counter.get_total_flops() / 1e9,
        milliseconds=statistics.median(times),
    )


def _count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
