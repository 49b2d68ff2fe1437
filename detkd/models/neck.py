"""Necks: backbone features c2..c5 in, levels p2..p6 of one width out.

The heads see only levels, so two networks whose necks have the same width and levels can share
their heads, whatever their backbones are. A neck is told the sizes of the images in the padded
batch, for an image's levels must not depend on how large the others are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkd.errors import ConfigError
from detkd.models.backbones import Feature

LEVELS = ("p2", "p3", "p4", "p5", "p6")
# Height and width px of each image in the padded batch, or the one size that all of them have.
Sizes = Sequence[tuple[int, int]]


class FeaturePyramid(nn.Module):
    """Feature pyramid network (Lin et al., CVPR 2017).

    Laterals (1x1) bring every stage to one width; each level adds the one above it, doubled in
    size; a 3x3 convolution smooths the sum. It is depthwise-separable in a light pyramid, and a
    bare one has none. All are followed by batch norm, without which a small network trained from
    scratch lags behind. Levels above the deepest stage are pooled from the one below.
    """

    def __init__(
        self,
        features: dict[str, Feature],
        channels: int,
        levels: list[str],
        smoothing: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        first = _first_stage(features, levels)
        self.levels = list(levels)
        # Deep stages help from above even where the heads do not read their level.
        self.stages = [name for name in features if name >= first]
        self.lateral = nn.ModuleDict(
            {name: _conv_norm(features[name].channels, channels, 1) for name in self.stages}
        )
        smoothed = [f"p{name[1]}" for name in self.stages if f"p{name[1]}" in levels]
        self.smooth = nn.ModuleDict({level: smoothing(channels) for level in smoothed})
        self.features = _features(channels, levels)

    def forward(self, features: dict[str, Tensor], sizes: Sizes | None = None) -> dict[str, Tensor]:
        """Levels [N, channels, H/stride, W/stride] by name."""
        merged: dict[str, Tensor] = {}
        above = None
        for name in reversed(self.stages):
            x = self.lateral[name](features[name])
            if above is not None:
                x = x + F.interpolate(above, size=x.shape[-2:], mode="nearest")
            merged[f"p{name[1]}"] = above = x
        out: dict[str, Tensor] = {}
        for level in self.levels:
            if level in self.smooth:
                out[level] = self.smooth[level](merged[level])
            else:
                out[level] = F.max_pool2d(list(out.values())[-1], 1, stride=2)
        return out


class ContextEnhancement(nn.Module):
    """Context enhancement module of ThunderNet (Qin et al., ICCV 2019), for one level or several.

    A level is the sum of its own stage, of the next one in twice the size, and of what the whole
    frame says:  p_k = L_k c_k + up(L_(k+1) c_(k+1)) + G mean(c_last),  L and G 1x1 convolutions, L
    followed by batch norm. Published is the one level p4. There is no chain from the top and no
    convolution behind the sum, so that a level costs next to nothing. Levels above the deepest
    stage are pooled from the one below. The mean is over the cells of the image, without those of
    the batch's padding.
    """

    def __init__(self, features: dict[str, Feature], channels: int, levels: list[str]) -> None:
        super().__init__()
        first = _first_stage(features, levels)
        self.levels = list(levels)
        last = f"c{int(levels[-1][1]) + 1}"
        self.lateral = nn.ModuleDict(
            {
                name: _conv_norm(feature.channels, channels, 1)
                for name, feature in features.items()
                if first <= name <= last
            }
        )
        self.deepest = list(features)[-1]
        self.stride = features[self.deepest].stride
        # Without a norm: a frame is one cell here, and a batch of one has no variance.
        self.frame = nn.Conv2d(features[self.deepest].channels, channels, 1)
        self.features = _features(channels, levels)

    def forward(self, features: dict[str, Tensor], sizes: Sizes | None = None) -> dict[str, Tensor]:
        """Levels [N, channels, H/stride, W/stride] by name."""
        own = {name: lateral(features[name]) for name, lateral in self.lateral.items()}
        frame = self.frame(self._mean(features[self.deepest], sizes))
        out: dict[str, Tensor] = {}
        for level in self.levels:
            stage, next_stage = f"c{level[1]}", f"c{int(level[1]) + 1}"
            if stage not in own:
                out[level] = F.max_pool2d(list(out.values())[-1], 1, stride=2)
                continue
            x = own[stage] + frame
            if next_stage in own:
                x = x + F.interpolate(own[next_stage], size=x.shape[-2:], mode="nearest")
            out[level] = x
        return out

    def _mean(self, maps: Tensor, sizes: Sizes | None) -> Tensor:
        """Means [N, C, 1, 1] of maps [N, C, h, w] over each image's own cells."""
        if sizes is None:
            return maps.mean((2, 3), keepdim=True)
        more = self.stride - 1  # rounded up; of negative numbers ONNX rounds otherwise than Python
        cells = [((h + more) // self.stride, (w + more) // self.stride) for h, w in sizes]
        if len(cells) == 1:
            [(rows, columns)] = cells
            return maps[:, :, :rows, :columns].mean((2, 3), keepdim=True)
        means = [
            each[:, :rows, :columns].mean((1, 2), keepdim=True)
            for each, (rows, columns) in zip(maps, cells, strict=True)
        ]
        return torch.stack(means)


class SingleLevel(nn.Module):
    """One level, as in the first Faster R-CNN: a stage, projected to the width of the heads."""

    def __init__(self, features: dict[str, Feature], channels: int, levels: list[str]) -> None:
        super().__init__()
        if len(levels) != 1:
            raise ConfigError(f"model.levels: neck 'none' has one level, and {levels} were asked.")
        self.level, self.stage = levels[0], _first_stage(features, levels)
        self.project = _conv_norm(features[self.stage].channels, channels, 1)
        self.features = {self.level: Feature(channels, features[self.stage].stride)}

    def forward(self, features: dict[str, Tensor], sizes: Sizes | None = None) -> dict[str, Tensor]:
        """The level [N, channels, H/stride, W/stride] by name."""
        return {self.level: self.project(features[self.stage])}


Neck = FeaturePyramid | ContextEnhancement | SingleLevel


def build_neck(kind: str, features: dict[str, Feature], channels: int, levels: list[str]) -> Neck:
    """The neck called `kind` (one of NECKS) on a backbone's features.

    Raises:
        ConfigError: levels unknown, not in a row, or below the backbone's first stage.
    """
    if not levels or any(level not in LEVELS for level in levels):
        raise ConfigError(f"model.levels: {levels} are not levels; there are {', '.join(LEVELS)}.")
    first = LEVELS.index(levels[0])
    if list(LEVELS[first : first + len(levels)]) != list(levels):
        raise ConfigError(f"model.levels: {levels} do not follow each other.")
    if kind == "none":
        return SingleLevel(features, channels, levels)
    if kind == "cem":
        return ContextEnhancement(features, channels, levels)
    return FeaturePyramid(features, channels, levels, SMOOTHINGS[kind])


def _first_stage(features: dict[str, Feature], levels: list[str]) -> str:
    """The stage of the finest level, which a neck cannot do without."""
    first = f"c{levels[0][1]}"
    if first not in features:
        raise ConfigError(
            f"model.levels: {levels[0]} needs stage {first}, and the backbone has "
            f"{', '.join(features)}."
        )
    return first


def _features(channels: int, levels: list[str]) -> dict[str, Feature]:
    return {level: Feature(channels, 2 ** int(level[1])) for level in levels}


def _conv_norm(channels: int, out_channels: int, size: int, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, out_channels, size, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
    )


def _full(channels: int) -> nn.Module:
    return _conv_norm(channels, channels, 3)


def _light(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
        *_conv_norm(channels, channels, 1),
    )


def _bare(_channels: int) -> nn.Module:
    return nn.Identity()


SMOOTHINGS: dict[str, Callable[[int], nn.Module]] = {
    "fpn": _full,
    "light_fpn": _light,
    "bare_fpn": _bare,
}
