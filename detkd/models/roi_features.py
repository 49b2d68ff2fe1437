"""What the RoI head sees of a proposal: features [R, C, p, p] cut out of the levels.

`plain` cuts all channels of a level out. `thin` reduces the levels to few channels first, as
Light-Head R-CNN does (Li et al., 2017): sampling costs in proportion, and so does the layer behind
it, of which the two are a factorisation of low rank (nothing but linear lies between them).
`psroi` gives each cell of a RoI channels of its own, so that few say as much, as in R-FCN (Dai et
al., 2016), Light-Head R-CNN and ThunderNet (Qin et al., ICCV 2019).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign, ps_roi_align
from torchvision.ops.poolers import LevelMapper

from detkd.config import ModelConfig
from detkd.models.backbones import Feature

SAMPLES = 2  # points a side of a cell


class RoIAlign(MultiScaleRoIAlign):
    """RoIAlign that knows the strides of its levels, for features [R, channels, cells, cells].

    torchvision guesses them from the first batch that it sees, and keeps the guess. A first frame
    that is much flatter than a multiple of the greatest stride makes it wrong for good: of one of
    12 by 256 px, stride 4 is read as 2. `roi_scale` is the side in px of a box of level 4.
    """

    reduces = False  # whether RoIs are cut out of something else than the levels themselves

    def __init__(self, levels: dict[str, Feature], cells: int, roi_scale: int) -> None:
        super().__init__(list(levels), cells, SAMPLES, canonical_scale=roi_scale)
        strides = [level.stride for level in levels.values()]
        self.scales = [1 / stride for stride in strides]
        first, last = (stride.bit_length() - 1 for stride in (strides[0], strides[-1]))
        self.map_levels = LevelMapper(first, last, roi_scale, self.canonical_level)
        self.channels = next(iter(levels.values())).channels

    def reduced(self, levels: Sequence[Tensor]) -> list[Tensor]:
        """The maps [N, c, h, w] of the levels [N, C, h, w] out of which RoIs are cut."""
        return list(levels)

    def cut(
        self, maps: Sequence[Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        """The features of RoIs, out of what `reduced` has made of the levels."""
        named = dict(zip(self.featmap_names, maps, strict=True))
        return super().forward(named, boxes, image_shapes)

    def forward(
        self, x: dict[str, Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        return self.cut(self.reduced([x[name] for name in self.featmap_names]), boxes, image_shapes)


class ThinRoIAlign(RoIAlign):
    """RoIAlign of levels that one 1x1 convolution for all has reduced to `thin` channels."""

    reduces = True

    def __init__(self, levels: dict[str, Feature], thin: int, cells: int, roi_scale: int) -> None:
        super().__init__(levels, cells, roi_scale)
        self.reduce = nn.Conv2d(self.channels, thin, 1)
        self.channels = thin

    def reduced(self, levels: Sequence[Tensor]) -> list[Tensor]:
        return [self.reduce(level) for level in levels]


class PositionSensitiveRoIAlign(ThinRoIAlign):
    """Features [R, A, p, p] of levels reduced to A p² channels.

    Cell (i, j) of feature a is the mean of 2x2 points of channel (a p + i) p + j inside the cell;
    cells are those of an aligned RoI: shifted by half a pixel, and as small as they are.
    """

    def __init__(
        self, levels: dict[str, Feature], features: int, cells: int, roi_scale: int
    ) -> None:
        super().__init__(levels, features * cells**2, cells, roi_scale)
        self.channels = features

    def cut(
        self, maps: Sequence[Tensor], boxes: list[Tensor], image_shapes: list[tuple[int, int]]
    ) -> Tensor:
        assert self.scales is not None and self.map_levels is not None
        wanted = self.map_levels(boxes)
        frame = [torch.full_like(each[:, :1], at) for at, each in enumerate(boxes)]
        # The operator knows no mixed precision.
        rois = torch.cat([torch.cat(frame), torch.cat(boxes)], dim=1).float()
        out = rois.new_zeros(len(rois), self.channels, *self.output_size)
        for at, (level, scale) in enumerate(zip(maps, self.scales, strict=True)):
            here = torch.where(wanted == at)[0]
            out[here] = ps_roi_align(level.float(), rois[here], self.output_size, scale, SAMPLES)
        return out.to(maps[0].dtype)


def build_roi_features(model: ModelConfig, levels: dict[str, Feature]) -> tuple[RoIAlign, int]:
    """What `model.roi_features` names, for these levels; and the values that it gives a RoI."""
    cells, scale = model.roi_size, round(model.roi_scale)
    if model.roi_features == "plain":
        pool = RoIAlign(levels, cells, scale)
    else:
        kind = PositionSensitiveRoIAlign if model.roi_features == "psroi" else ThinRoIAlign
        pool = kind(levels, model.roi_channels, cells, scale)
    return pool, pool.channels * cells**2
