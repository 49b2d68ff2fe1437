"""From a feature map to class logits: the head behind the last stage, and exits on earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation

from detkd.errors import ConfigError
from detkd.models.attention import attention
from detkd.models.backbones import Backbone, Feature
from detkd.models.shallow import Separable


class Head(nn.Module):
    """A tail of convolutions, pooling, fully connected layers, and one linear layer.

    Args:
        tail: what comes between the last stage and the pooling.
        cells: a side that the pooling leaves (1: the mean over all cells).
        hidden: layers between the pooled features and the last one.
        width: of what the last one reads.
        classes: how many there are.
    """

    def __init__(
        self, tail: nn.Module, cells: int, hidden: nn.Module, width: int, classes: int
    ) -> None:
        super().__init__()
        self.tail, self.pool, self.hidden = tail, nn.AdaptiveAvgPool2d(cells), hidden
        self.width = width
        self.classes = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features [N, width] and logits [N, K] of a stage's features [N, C, h, w]."""
        pooled = self.hidden(self.pool(self.tail(x)).flatten(1))
        return pooled, self.classes(pooled)


class Exit(nn.Module):
    """A classifier on an early stage: a bottleneck, perhaps attention, pooling, a linear layer.

    The bottleneck halves the resolution by depthwise-separable convolutions until it is that of the
    deepest stage, at the width of its own stage and at a quarter of the deepest one's at most, and
    only there widens to the deepest stage's channels, so that the two can be compared cell by cell.
    A stage that has the resolution already is narrowed by a pointwise convolution.

    Args:
        feature, deepest: of its stage, and of the deepest one.
        classes: how many there are.
        attention_kind: behind the bottleneck.
        signed: the deepest stage has both signs, which a ReLU could not say.
    """

    def __init__(
        self,
        feature: Feature,
        deepest: Feature,
        classes: int,
        *,
        attention_kind: str = "eca",
        signed: bool = False,
    ) -> None:
        super().__init__()
        middle = min(feature.channels, max(8, deepest.channels // 4))
        halvings = max(0, (deepest.stride // feature.stride).bit_length() - 1)
        narrow: list[nn.Module] = [
            Separable(middle if at else feature.channels, middle, stride=2)
            for at in range(halvings)
        ]
        self.bottleneck = nn.Sequential(
            *(narrow or [Conv2dNormActivation(feature.channels, middle, 1)]),
            Conv2dNormActivation(
                middle, deepest.channels, 1, activation_layer=None if signed else nn.ReLU
            ),
            attention(attention_kind, deepest.channels),
        )
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.width, self.stride = deepest.channels, deepest.stride
        self.classes = nn.Linear(deepest.channels, classes)

    def features(self, x: Tensor) -> Tensor:
        """What is compared with the deepest stage: [N, its channels, h, w]."""
        return self.bottleneck(x)

    def from_features(self, features: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.pool(features).flatten(1)
        return pooled, self.classes(pooled)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features [N, width] and logits [N, K] of a stage's features [N, C, h, w]."""
        return self.from_features(self.features(x))


def exit_stages(names: Sequence[str], backbone: Backbone, key: str) -> list[str]:
    """The stages called `names`, in the order of the backbone's.

    An exit sits behind weights that no exit before it has, and leaves some for the deepest one.

    Raises:
        ConfigError: under `key`: there is no such stage, it is named twice, it only pools, or no
            weights are behind it, so that its exit would be the whole network.
    """
    if twice := next((name for name in names if list(names).count(name) > 1), None):
        raise ConfigError(f"{key}: names '{twice}' twice; a stage has one exit.")
    there = [name for name in backbone.features if name not in backbone.bare][:-1]
    for name in names:
        if name not in there:
            why = ": an exit needs weights in its stage and behind it"
            raise ConfigError(
                f"{key}: no exit can sit on '{name}'; there are {', '.join(there) or 'none'}"
                f"{why if name in backbone.features else ''}."
            )
    return [name for name in there if name in names]


@dataclass(frozen=True)
class Behind:
    """What a published network has behind its last stage.

    Args:
        last: the name of its last layer, whose weights are of other classes.
        tail: its convolutions before the pooling, taken out of the network.
        hidden: its layers between pooling and the last one.
        cells: a side that its pooling leaves.
    """

    last: str
    tail: Callable[[Any], nn.Module] = lambda net: nn.Identity()
    hidden: Callable[[Any], nn.Module] = lambda net: nn.Identity()
    cells: int = 1


_RESNET = Behind("fc.")
_VGG = Behind("classifier.6.", hidden=lambda net: net.classifier[:6], cells=7)
_MOBILENET_V3 = Behind(
    "classifier.3.", tail=lambda net: net.features[-1], hidden=lambda net: net.classifier[:3]
)
_SHUFFLENET = Behind("fc.", tail=lambda net: net.conv5)
BEHIND: dict[str, Behind] = {
    **dict.fromkeys(("resnet18", "resnet34", "resnet50", "resnet101"), _RESNET),
    **dict.fromkeys(("vgg11", "vgg16", "vgg11_plain", "vgg16_plain"), _VGG),
    "mobilenet_v2": Behind(
        "classifier.1.", tail=lambda net: net.features[-1], hidden=lambda net: net.classifier[:1]
    ),
    **dict.fromkeys(("mobilenet_v3_small", "mobilenet_v3_large"), _MOBILENET_V3),
    **dict.fromkeys(("shufflenet_v2_x0_5", "shufflenet_v2_x1_0"), _SHUFFLENET),
    # Its own last layer is a 1x1 convolution and a ReLU before the mean over cells: here the linear
    # layer behind it, without the ReLU.
    "squeezenet": Behind("classifier.", hidden=lambda net: net.classifier[:1]),
}
