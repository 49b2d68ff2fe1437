"""Backbones: image in, features c2..c5 out (strides 4 to 32), each with its channels said.

To add one, write a function that returns its stages by name and list it in `STAGES`; anything
in timm is there already as `timm/NAME`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from detkd.errors import CheckpointError, ConfigError
from detkd.models.shallow import shallow_stages
from detkd.models.weights import download, is_checkpoint, load_weights

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# What those of timm raise that take images of one size, or up to one.
WRONG_SIZE = (AssertionError, IndexError, RuntimeError, ValueError)
STRIDES = {"c2": 4, "c3": 8, "c4": 16, "c5": 32}


@dataclass(frozen=True)
class Feature:
    """What a named feature map is: its channels, and px of the image per cell."""

    channels: int
    stride: int

    def __str__(self) -> str:
        return f"{self.channels} ch, stride {self.stride}"


class Backbone(nn.Module):
    """Stages in a row; those named in `features` are returned.

    `mean` and `std` (RGB, 0..1) say how the images must be normalised. `bare` are the stages that
    only pool: of VGG the deepest, of ShuffleNet the first. `whole` says that it cannot be split.
    """

    whole = False

    def __init__(
        self,
        stages: dict[str, nn.Module],
        features: dict[str, Feature],
        *,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.stages = nn.ModuleDict(stages)
        self.features = features
        self.bare = {name for name, stage in stages.items() if not list(stage.parameters())}
        self.mean, self.std = tuple(mean), tuple(std)
        self.frozen: list[nn.Module] = []

    def split(self) -> dict[str, nn.Module]:
        """Its stages by name; one after the other they give its features.

        Raises:
            ConfigError: it runs as a whole.
        """
        return dict(self.stages)

    def until(self, last: str) -> Backbone:
        """The backbone that ends with the stage `last`; it shares the weights of this one.

        Raises:
            ConfigError: it runs as a whole.
        """
        stages = self.split()
        kept = list(stages)[: list(stages).index(last) + 1]
        cut = Backbone(
            {name: stages[name] for name in kept},
            {name: self.features[name] for name in kept if name in self.features},
            mean=self.mean,
            std=self.std,
        )
        there = set(cut.modules())
        cut.frozen = [module for module in self.frozen if module in there]
        return cut

    def freeze(self, count: int) -> None:
        """Train neither weights nor statistics of the stem and the first `count` stages."""
        if count > len(self.features):
            raise ConfigError(
                f"model.frozen_stages: {count} is more than the {len(self.features)} stages."
            )
        if count:
            stages = self.split()
            last = list(stages).index(list(self.features)[count - 1])
            for stage in list(stages.values())[: last + 1]:
                stage.requires_grad_(False)
                self.frozen += stage.modules()

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for module in self.frozen:
            module.eval()
        return self

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Features of images [N, 3, H, W] by name, each [N, channels, H/stride, W/stride]."""
        out = {}
        for name, stage in self.stages.items():
            x = stage(x)
            if name in self.features:
                out[name] = x
        return out


class TimmBackbone(Backbone):
    """A `features_only` network of timm, whose weights keep timm's names.

    It is split where its layers run one after the other; where they do not (most transformers), it
    is `whole`.
    """

    def __init__(
        self, net: nn.Module, names: list[str], **normalisation: tuple[float, ...]
    ) -> None:
        info: Any = net.feature_info
        features = {
            name: Feature(channels, stride)
            for name, channels, stride in zip(names, info.channels(), info.reduction(), strict=True)
        }
        super().__init__({"net": net}, features, **normalisation)
        self.channels_last = getattr(net, "output_fmt", "NCHW") == "NHWC"
        self.layers = {} if self.channels_last else _layers_in_a_row(net, names)
        self.whole = not self.layers
        if not self.whole:
            self.bare = {name for name, stage in self.split().items() if not [*stage.parameters()]}

    def split(self) -> dict[str, nn.Module]:
        if self.whole:
            raise ConfigError(
                "model.backbone: this network of timm runs as a whole, not layer by layer: there "
                "is no cut, frozen stage, attention or early stop in it."
            )
        net = self.stages["net"]  # asked anew: layers may have been replaced, by frozen norms, say
        return {
            name: nn.Sequential(*map(net.get_submodule, layers))
            for name, layers in self.layers.items()
        }

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        found = self.stages["net"](x)
        if self.channels_last:
            found = [y.permute(0, 3, 1, 2) for y in found]
        return dict(zip(self.features, found, strict=True))


@torch.no_grad()
def _layers_in_a_row(net: nn.Module, names: Sequence[str]) -> dict[str, list[str]]:
    """The layers of each stage, if running them one after the other gives its features.

    They are the children of `net` in their order, `Sequential`s taken apart. Else, and of a network
    that takes no image of 64 px, it is empty.
    """
    generator = torch.Generator().manual_seed(0)
    net = copy.deepcopy(net).eval()
    for weight in net.parameters():  # a residual block may begin as the identity, and end no stage
        weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    x = torch.randn(1, 3, 64, 64, generator=generator)
    layers = iter(_flat(net))
    found: dict[str, list[str]] = {}
    try:
        for name, wanted in zip(names, net(x), strict=True):
            found[name] = []
            while not (found[name] and torch.equal(x, wanted)):
                found[name].append(next(layers))
                x = net.get_submodule(found[name][-1])(x)
    except Exception:  # no layer is left, or one takes more than the one before gives: any error
        return {}
    return found


def _flat(net: nn.Module) -> Iterator[str]:
    for name, child in net.named_children():
        if type(child) is nn.Sequential:
            yield from (f"{name}.{inner}" for inner, _ in child.named_children())
        else:
            yield name


def resnet_stages(net: Any) -> dict[str, nn.Module]:
    stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
    return {"stem": stem, "c2": net.layer1, "c3": net.layer2, "c4": net.layer3, "c5": net.layer4}


def stages_by_stride(layers: nn.Sequential) -> dict[str, nn.Module]:
    """Cut a row of layers where it halves the resolution: a stage ends with its stride."""
    stages: dict[str, list[nn.Module]] = {}
    layers.eval()
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        for layer in layers:
            x = layer(x)
            stride = 64 // x.shape[-1]
            name = {v: k for k, v in STRIDES.items()}.get(stride, f"stem{stride}")
            stages.setdefault(name, []).append(layer)
    layers.train()
    return {name: nn.Sequential(*members) for name, members in stages.items()}


def vgg_stages(net: Any) -> dict[str, nn.Module]:
    return stages_by_stride(net.features)


def mobilenet_stages(net: Any) -> dict[str, nn.Module]:
    # The last 1x1 convolution only widens for the classifier.
    return stages_by_stride(net.features[:-1])


def shufflenet_stages(net: Any) -> dict[str, nn.Module]:
    # conv5 only widens for the classifier.
    return {
        "stem": net.conv1,
        "c2": net.maxpool,
        "c3": net.stage2,
        "c4": net.stage3,
        "c5": net.stage4,
    }


def squeezenet_stages(net: Any) -> dict[str, nn.Module]:
    """It ends at stride 16. Its pooling begins the stages; it rounds sizes in its own way."""
    layers = net.features
    return {"stem": layers[:2], "c2": layers[2:5], "c3": layers[5:8], "c4": layers[8:]}


STAGES: dict[str, tuple[str, Callable[[Any], dict[str, nn.Module]], tuple[str, ...]]] = {
    # our name: (torchvision's name, how it is cut, weights that a detector does not need)
    "resnet18": ("resnet18", resnet_stages, ("fc.",)),
    "resnet34": ("resnet34", resnet_stages, ("fc.",)),
    "resnet50": ("resnet50", resnet_stages, ("fc.",)),
    "resnet101": ("resnet101", resnet_stages, ("fc.",)),
    "vgg11": ("vgg11_bn", vgg_stages, ("classifier.",)),
    "vgg16": ("vgg16_bn", vgg_stages, ("classifier.",)),
    "vgg11_plain": ("vgg11", vgg_stages, ("classifier.",)),
    "vgg16_plain": ("vgg16", vgg_stages, ("classifier.",)),
    "mobilenet_v2": ("mobilenet_v2", mobilenet_stages, ("classifier.", "features.18.")),
    "mobilenet_v3_small": ("mobilenet_v3_small", mobilenet_stages, ("classifier.", "features.12.")),
    "mobilenet_v3_large": ("mobilenet_v3_large", mobilenet_stages, ("classifier.", "features.16.")),
    "shufflenet_v2_x0_5": ("shufflenet_v2_x0_5", shufflenet_stages, ("fc.", "conv5.")),
    "shufflenet_v2_x1_0": ("shufflenet_v2_x1_0", shufflenet_stages, ("fc.", "conv5.")),
    "squeezenet": ("squeezenet1_1", squeezenet_stages, ("classifier.",)),
}


def build_backbone(
    name: str,
    *,
    weights: str | None = None,
    frozen_stages: int = 0,
    frozen_norm: bool = False,
) -> Backbone:
    """The backbone called `name` (see `ModelConfig.backbone`).

    `weights` is None (random), 'imagenet' (downloaded by the library) or a local file: of published
    weights, or a checkpoint of detkd, whose backbone it begins as.

    Raises:
        ConfigError: no such backbone or stage, or no weights for it.
        CheckpointError: the weights do not fit.
    """
    name, _, last = name.partition("@")
    if last and last not in STRIDES:
        raise ConfigError(f"model.backbone: no stage '{last}'; there are {', '.join(STRIDES)}.")
    begun = weights if is_checkpoint(weights) else None
    published = None if begun else weights
    if name.startswith("timm/"):
        backbone: Backbone = _timm_backbone(name.removeprefix("timm/"), published, last)
    else:
        backbone = _staged_backbone(name, published, last)
    if begun:
        load_weights(backbone, begun)
    if frozen_norm:
        from timm.utils.model import freeze_batch_norm_2d

        freeze_batch_norm_2d(backbone)
    backbone.freeze(frozen_stages)
    return backbone


def _staged_backbone(name: str, weights: str | None, last: str) -> Backbone:
    shallow = shallow_stages(name)
    if shallow is not None:
        stages, _ = shallow
        if weights == "imagenet":
            raise ConfigError(f"model.weights: there are no ImageNet weights of '{name}'.")
    elif name in STAGES:
        _, cut, unused = STAGES[name]
        stages = cut(published_network(name, weights, unused))
    else:
        raise ConfigError(
            f"model.backbone: no '{name}'; there are {', '.join(STAGES)}, shallow_x1 (any width), "
            "timm/NAME, and each of them cut at a stage, as resnet18@c3."
        )
    if last:
        names = list(stages)
        stages = {key: stages[key] for key in names[: names.index(last) + 1]}
    backbone = Backbone(stages, features=measure_stages(stages))
    if shallow is not None and weights:
        load_weights(backbone, weights)
    return backbone


def published_network(name: str, weights: str | None, unused: tuple[str, ...]) -> nn.Module:
    """torchvision's whole network behind one of our names, with weights where they are asked for.

    `weights` is None (random), 'imagenet' or a file; layers that begin with one of `unused` may be
    missing in it.
    """
    library_name = STAGES[name][0]
    without_head = library_name.startswith("vgg") and "classifier." in unused
    net = _vgg_features(library_name) if without_head else models.get_model(library_name)
    if weights == "imagenet":
        weights = str(download(models.get_model_weights(library_name).DEFAULT.url))
    if weights:
        load_weights(net, weights, unused=unused)
    return net


def _vgg_features(library_name: str) -> nn.Module:
    """torchvision's VGG without its head, whose 120 million weights take longest to be drawn."""
    layers = models.vgg.cfgs[{"vgg11": "A", "vgg16": "D"}[library_name.removesuffix("_bn")]]
    net, features = nn.Module(), models.vgg.make_layers(layers, library_name.endswith("_bn"))
    net.features = features
    for layer in features:
        if isinstance(layer, nn.Conv2d):  # as VGG itself begins
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return net


def measure_stages(stages: Mapping[str, nn.Module]) -> dict[str, Feature]:
    """Channels and strides of the stages c2..c5, read off a small image."""
    features = {}
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        for name, stage in stages.items():
            x = stage.eval()(x)
            stage.train()
            if name in STRIDES:
                features[name] = Feature(x.shape[1], STRIDES[name])
    return features


def is_signed(backbone: Backbone, name: str, size: int = 64) -> bool:
    """Whether this feature can be negative: no ReLU is the last of it.

    Read off an image of noise of this size; of a network that takes no such image it is not known,
    and not said.
    """
    noise = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0))
    maps = _maps_of(backbone, noise)
    return maps is not None and bool((maps[name] < 0).any())


def takes(backbone: Backbone, height: int, width: int) -> bool:
    """Whether it runs on images of this size; many of timm's take one alone, or not all."""
    return _maps_of(backbone, torch.zeros(1, 3, height, width)) is not None


@torch.no_grad()
def _maps_of(backbone: Backbone, images: Tensor) -> dict[str, Tensor] | None:
    """Its maps in evaluation mode, in which it is not left; None if it takes no such images."""
    training = backbone.training
    try:
        return backbone.eval()(images)
    except WRONG_SIZE:
        return None
    finally:
        backbone.train(training)


def made_for(name: str) -> int | None:
    """The side in px of the images that a network of timm was published for, if it says so."""
    import timm

    settings = timm.get_pretrained_cfg(name.removeprefix("timm/").partition("@")[0])
    return settings.input_size[-1] if settings else None


def _timm_backbone(name: str, weights: str | None, last: str) -> TimmBackbone:
    import timm

    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('_')[0]}*")[:5]
        hint = f"; near ones are {', '.join(near)}" if near else ""
        raise ConfigError(f"model.backbone: timm has no '{name}'{hint}.")
    overlay = None
    if weights not in (None, "imagenet"):
        # timm passes over missing keys where only features are asked for: check them first.
        load_weights(timm.create_model(name), weights, unused=_behind_features(name))
        overlay = {"file": str(weights)}
    probe: Any = timm.create_model(name, features_only=True)
    reductions = probe.feature_info.reduction()
    names = [key for key, stride in STRIDES.items() if stride in reductions]
    names = names[: names.index(last) + 1] if last in names else names
    if not names:
        raise ConfigError(
            f"model.backbone: '{name}' of timm has no maps of strides 4, 8, 16 or 32 px, but of "
            f"{', '.join(map(str, reductions))}; name another network."
        )
    try:
        net: Any = timm.create_model(
            name,
            features_only=True,
            pretrained=weights is not None,
            pretrained_cfg_overlay=overlay,
            out_indices=[reductions.index(STRIDES[key]) for key in names],
        )
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"model.weights: timm could not fetch the weights of '{name}' "
            f"({str(error).splitlines()[0]}); fetch the file elsewhere and name it here."
        ) from error
    settings = timm.get_pretrained_cfg(name)
    if settings is None:
        return TimmBackbone(net, names)
    return TimmBackbone(net, names, mean=settings.mean, std=settings.std)


def _behind_features(name: str) -> tuple[str, ...]:
    """Prefixes of the weights that only the classifier of a timm network uses."""
    import timm

    settings = timm.get_pretrained_cfg(name)
    named: Any = settings.classifier if settings is not None else None
    heads = named if isinstance(named, tuple) else (named or "classifier",)
    return (*(f"{head}." for head in heads), "conv_head.", "bn2.")
