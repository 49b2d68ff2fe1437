"""Exponential moving average of the weights: what is judged, kept and deployed."""

from __future__ import annotations

import copy

import torch
from torch import nn

from detkd.models.network import Network


class Average:
    """Weights and statistics of a network, averaged over the steps.

    a ← d·a + (1 − d)·w with d = min(decay, (1 + n) / (10 + n)) at update n, so that the random
    start is soon forgotten. Integer buffers are copied.
    """

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        current = network.state_dict()
        for key, average in self.network.state_dict().items():
            if average.is_floating_point():
                average.lerp_(current[key].to(average.dtype), 1 - decay)
            else:
                average.copy_(current[key])
