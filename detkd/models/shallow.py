"""The shallow backbones: a handful of cheap convolutions, 10 to 100 thousand parameters.

`shallow_x1` has a stem and four stages; a stage halves the resolution by one
depthwise-separable convolution and goes on with D - 1 residual ones (D = 2 unless the name says
`_dD`). The width factor multiplies the channels (16, 16, 24, 48, 96).
"""

from __future__ import annotations

import re

from torch import Tensor, nn

CHANNELS = (16, 16, 24, 48, 96)  # stem, c2, c3, c4, c5 at width 1
NAME = re.compile(r"shallow(?:_x(?P<width>\d+(?:\.\d+)?))?(?:_d(?P<depth>\d+))?")


class Separable(nn.Module):
    """Depthwise 3x3, then pointwise 1x1, each with batch norm; residual where the shape allows."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )
        self.pointwise = nn.Sequential(
            nn.Conv2d(channels, out_channels, 1, bias=False), nn.BatchNorm2d(out_channels)
        )
        self.residual = stride == 1 and channels == out_channels
        self.activation = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.pointwise(self.depthwise(x))
        return self.activation(out + x if self.residual else out)


def shallow_stages(name: str) -> tuple[dict[str, nn.Module], dict[str, int]] | None:
    """Stages `stem`, `c2`..`c5` and their channels, or None if `name` is of another family."""
    match = NAME.fullmatch(name)
    if match is None:
        return None
    width, depth = float(match["width"] or 1), int(match["depth"] or 2)
    channels = [max(8, round(c * width / 8) * 8) for c in CHANNELS]
    stages: dict[str, nn.Module] = {
        "stem": nn.Sequential(
            nn.Conv2d(3, channels[0], 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(inplace=True),
        )
    }
    for index, stage in enumerate(("c2", "c3", "c4", "c5"), start=1):
        blocks = [Separable(channels[index - 1], channels[index], stride=2)]
        blocks += [Separable(channels[index], channels[index], stride=1) for _ in range(depth - 1)]
        stages[stage] = nn.Sequential(*blocks)
    return stages, dict(zip(stages, channels, strict=True))
