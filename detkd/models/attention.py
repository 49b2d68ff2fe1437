"""Attention blocks: gates on channels and on cells, which start as the identity.

A published gate is a sigmoid, which starts at about one half: it halves the features of every
stage, and a network with trained weights no longer fits itself. Here a gate is 2·sigmoid with a
last layer that starts at zero, so it starts at one, and goes from zero to two. What follows a
block can take up the factor, so the functions that can be learned are the same.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ChannelGate(nn.Module):
    """CBAM's gate on channels (Woo et al., ECCV 2018).

        M_c = 2σ( MLP(mean over cells) + MLP(max over cells) ),   MLP: C → C/r → C, shared

    The paper has σ in place of 2σ. r = 16, but at least 4 channels in the middle.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(4, channels // reduction)
        last = nn.Linear(hidden, channels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """The gated features, of the shape of `x` [N, C, h, w]."""
        gate = self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3)))
        return x * (2 * gate.sigmoid())[:, :, None, None]


class CellGate(nn.Module):
    """CBAM's gate on cells (Woo et al., ECCV 2018).

    M_s = 2σ( conv7x7([mean over channels; max over channels]) )
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3)
        nn.init.zeros_(self.conv.weight)
        nn.init.zeros_(self.conv.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """The gated features, of the shape of `x` [N, C, h, w]."""
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * (2 * self.conv(seen).sigmoid())


class HybridAttention(nn.Sequential):
    """CBAM: the gate on channels, then the one on cells: y = M_s · (M_c · x)."""

    def __init__(self, channels: int) -> None:
        super().__init__(ChannelGate(channels), CellGate())


class EfficientChannelGate(nn.Module):
    """ECA's gate on channels (Wang et al., CVPR 2020): about k weights in all.

        s = 2σ( conv1d_k(mean over cells) ),   k = the odd number at or above (log2 C + 1) / 2

    (whole part of it first). The paper has σ in place of 2σ.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        size = kernel_size(channels)
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)
        nn.init.zeros_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """The gated features, of the shape of `x` [N, C, h, w]."""
        gate = self.conv(x.mean((2, 3))[:, None]).squeeze(1)
        return x * (2 * gate.sigmoid())[:, :, None, None]


def kernel_size(channels: int) -> int:
    """How many neighbouring channels ECA looks at: 3 at 64 channels, 5 at 256 and at 512."""
    size = int((math.log2(channels) + 1) / 2)
    return size if size % 2 else size + 1


def attention(kind: str, channels: int) -> nn.Module:
    """The block called `kind` (none, cbam or eca) for features of so many channels."""
    if kind == "cbam":
        return HybridAttention(channels)
    return EfficientChannelGate(channels) if kind == "eca" else nn.Identity()
