"""Networks made smaller by cheaper convolutions in the place of full ones."""

from __future__ import annotations

import math

from torch import Tensor, nn

from detkd.errors import ConfigError


class Shuffle(nn.Module):
    """Deal the channels of each group out to all groups (ShuffleNet, Zhang et al., CVPR 2018).

    Without it, what one group sees would never reach another in networks of 3x3 convolutions.
    """

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def forward(self, x: Tensor) -> Tensor:
        count, channels, height, width = x.shape
        dealt = x.view(count, self.groups, channels // self.groups, height, width).transpose(1, 2)
        return dealt.reshape(count, channels, height, width)


def compress(module: nn.Module, kind: str, groups: int) -> int:
    """Replace the full convolutions of 3x3 and more below `module`; how many there were.

    - grouped: by one in `groups` groups (the greatest number of them that divides both widths),
      channels shuffled behind it: 1/groups of the weights;
    - depthwise: by a depthwise one and a pointwise one (as in MobileNet, Howard et al., 2017),
      with batch norm and ReLU between: 1/k² + 1/C of the weights.

    A convolution of the image's three channels stays. New ones start from random weights.

    Raises:
        ConfigError: a convolution that does more than PyTorch's own.
    """
    replaced = 0
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d):
            if _is_full(child):
                setattr(module, name, _cheaper(child, kind, groups))
                replaced += 1
        else:
            replaced += compress(child, kind, groups)
    return replaced


def _is_full(conv: nn.Conv2d) -> bool:
    return conv.groups == 1 and min(conv.kernel_size) > 1 and conv.in_channels > 3


def _cheaper(conv: nn.Conv2d, kind: str, groups: int) -> nn.Module:
    if type(conv) is not nn.Conv2d:  # what it does besides would be lost
        raise ConfigError(
            "model.convolutions: this backbone has convolutions of its own "
            f"({type(conv).__name__}), which cannot be replaced; take another backbone."
        )
    shape = {
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "padding_mode": conv.padding_mode,
    }
    bias = conv.bias is not None
    if kind == "grouped":
        shared = _common(conv.in_channels, conv.out_channels, groups)
        grouped = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            groups=shared,
            bias=bias,
            **shape,  # type: ignore[arg-type]
        )
        return nn.Sequential(_started(grouped), Shuffle(shared))
    depthwise = nn.Conv2d(
        conv.in_channels,
        conv.in_channels,
        groups=conv.in_channels,
        bias=False,
        **shape,  # type: ignore[arg-type]
    )
    return nn.Sequential(
        _started(depthwise),
        nn.BatchNorm2d(conv.in_channels),
        nn.ReLU(inplace=True),
        _started(nn.Conv2d(conv.in_channels, conv.out_channels, 1, bias=bias)),
    )


def _common(a: int, b: int, most: int) -> int:
    """The greatest number up to `most` that divides both."""
    shared = math.gcd(a, b)
    return max(each for each in range(1, min(most, shared) + 1) if shared % each == 0)


def _started(conv: nn.Conv2d) -> nn.Conv2d:
    # By what a filter reads, of a depthwise one k² weights: "fan_out" would count all channels as
    # if each filter wrote into every one.
    nn.init.kaiming_normal_(conv.weight, mode="fan_in", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv
