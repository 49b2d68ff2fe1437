"""The classifier: a backbone with named stages, a head, and exits where they are asked for.

It keeps the detectors' contract: `model(images, targets)` gives a dictionary of losses in training,
`model(images)` a list of what each image is in evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from detkd.config import ClassifierConfig, LabelLossConfig
from detkd.errors import ConfigError
from detkd.models.attention import attention
from detkd.models.backbones import STAGES as PUBLISHED
from detkd.models.backbones import (
    Backbone,
    Feature,
    build_backbone,
    is_signed,
    made_for,
    measure_stages,
    published_network,
    takes,
)
from detkd.models.class_heads import BEHIND, Exit, Head, exit_stages
from detkd.models.compression import compress
from detkd.models.label_loss import LabelLoss, label_probabilities
from detkd.models.weights import (
    is_checkpoint,
    levels_in,
    load_weights,
    network_from,
    read_checkpoint,
)
from detkd.pixels import Levels


class Classifier(nn.Module):
    """Images in, one class each out; it knows its class names and the config it was built from.

    Args:
        backbone: gives the features c2..c5.
        head: reads the deepest of them; an `Exit` where the network was cut.
        exits: by the stage that they sit on.
        classes: their names, in the order of the logits.
        image_size: side in px of the square images that it is trained on; others work, too.
        config: what it was built from.
        loss: what a wrong label costs, in training.

    `levels` are what becomes 0 and 255 in 16-bit images, as in its training; `division` is the
    digest of the sides into which its images were divided there.
    """

    kind: ClassVar[str] = "classifier"
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: Backbone,
        head: Head | Exit,
        exits: dict[str, Exit],
        classes: Sequence[str],
        image_size: int,
        config: ClassifierConfig,
        loss: LabelLoss,
    ) -> None:
        super().__init__()
        self.backbone, self.head, self.exits = backbone, head, nn.ModuleDict(exits)
        self.classes, self.image_size, self.config = tuple(classes), image_size, config
        self.loss = loss
        self.levels: Levels | None = None
        self.division: str | None = None
        for name in ("mean", "std"):
            values = torch.tensor(getattr(backbone, name))[:, None, None]
            self.register_buffer(name, values, persistent=False)

    @property
    def network(self) -> Classifier:
        """What is judged and kept of a trainable: of a classifier, itself."""
        return self

    @property
    def features(self) -> dict[str, Feature]:
        """What can be read by name: the stages, and `pooled` and `logits` as maps of one cell."""
        return {
            **self.backbone.features,
            "pooled": Feature(self.head.width, self.image_size),
            "logits": Feature(len(self.classes), self.image_size),
        }

    @property
    def deepest(self) -> str:
        """The name of the stage that the head reads."""
        return list(self.backbone.features)[-1]

    @property
    def can_stop(self) -> bool:
        """Whether there are exits at which it can stop; some of timm's networks run as a whole."""
        return bool(self.exits) and not self.backbone.whole

    def batch(self, images: Sequence[Tensor] | Tensor) -> Tensor:
        """Images [3, S, S] in 0..1 as one normalised tensor [N, 3, S, S]."""
        stacked = images if isinstance(images, Tensor) else torch.stack(list(images))
        return (stacked - self.mean) / self.std

    def read(self, batch: Tensor) -> dict[str, Tensor]:
        """c2..c5 [N, C, h, w], `pooled` [N, width, 1, 1] and `logits` [N, K] of a batch.

        Of the exit on c3 there are `c3.features` [N, C, h, w] and `c3.logits` [N, K].
        """
        said = self.backbone(batch)
        pooled, logits = self.head(said[self.deepest])
        for name, exit_ in self.exits.items():
            assert isinstance(exit_, Exit)
            features = exit_.features(said[name])
            said[f"{name}.features"] = features
            said[f"{name}.logits"] = exit_.from_features(features)[1]
        return {**said, "pooled": pooled[:, :, None, None], "logits": logits}

    def task(self, said: dict[str, Tensor], targets: Sequence[dict[str, Tensor]]) -> Tensor:
        """What the wrong labels of a batch cost that was read."""
        labels = label_probabilities(targets, len(self.classes)).to(said["logits"].device)
        return self.loss(said["logits"], labels)

    def forward(
        self, images: Sequence[Tensor] | Tensor, targets: list[dict[str, Tensor]] | None = None
    ) -> Any:
        """Losses in training; else `logits` and `probabilities` [K] of each image.

        Where there are exits, an image also has `exits` [E, K], the logits of each and of the
        head, the shallowest first.
        """
        said = self.read(self.batch(images))
        if self.training:
            assert targets is not None
            return {"loss_label": self.task(said, targets)}
        logits = said["logits"].float()
        found = [{"logits": z, "probabilities": z.softmax(0)} for z in logits]
        if self.exits:
            each = [said[f"{name}.logits"].float() for name in self.exits]
            for row, exits in zip(found, torch.stack([*each, logits], 1), strict=True):
                row["exits"] = exits
        return found

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """The classifier of a checkpoint, in evaluation mode, on the CPU.

        Raises:
            CheckpointError: the file is missing, broken, hostile, or of another kind.
        """
        return classifier_from(read_checkpoint(path), path)


def build_classifier(
    config: ClassifierConfig,
    classes: Sequence[str],
    image_size: int,
    *,
    loss: LabelLossConfig | None = None,
    counts: Sequence[float] = (),
) -> Classifier:
    """A classifier of `classes`.

    Args:
        config: its parts.
        image_size: side in px of the images that it is trained on.
        loss: what a wrong label costs; cross entropy, if nothing is said.
        counts: training images of each class as they are drawn, which some losses need.

    Raises:
        ConfigError: a name that does not exist, or parts that do not fit.
        CheckpointError: backbone weights that do not fit.
    """
    criterion = LabelLoss(loss or LabelLossConfig(), counts)
    backbone, head = _parts(config, len(classes))
    if config.backbone.startswith("timm/") and not takes(backbone, image_size, image_size):
        published = made_for(config.backbone)
        raise ConfigError(
            f"data.image_size: '{config.backbone}' takes no images of {image_size} x {image_size} "
            f"px; name another size{f', such as its own of {published}' if published else ''}."
        )
    if config.cut:
        exit_stages([config.cut], backbone, "model.cut")
        cut = backbone.until(config.cut)
        (exit_,) = _exits(backbone, [config.cut], config, len(classes), image_size).values()
        return Classifier(cut, exit_, {}, classes, image_size, config, criterion)
    names = exit_stages(config.exits, backbone, "model.exits")
    exits = _exits(backbone, names, config, len(classes), image_size)
    return Classifier(backbone, head, exits, classes, image_size, config, criterion)


def cut_at(network: Classifier, stage: str) -> Classifier:
    """The network that ends with its exit on `stage`, with nothing of the rest.

    It shares the weights of `network`, and is in evaluation mode.

    Raises:
        ConfigError: there is no such exit.
    """
    if stage not in network.exits:
        there = ", ".join(network.exits) or "none"
        raise ConfigError(f"no exit on '{stage}' to cut the network at; there are {there}.")
    exit_ = network.exits[stage]
    assert isinstance(exit_, Exit)
    config = ClassifierConfig(**{**vars(network.config), "cut": stage})
    backbone = network.backbone.until(stage)
    cut = Classifier(backbone, exit_, {}, network.classes, network.image_size, config, network.loss)
    cut.levels = network.levels
    return cut.eval()


def without_exits(network: Classifier) -> Classifier:
    """The network with its head alone, in evaluation mode; it shares the weights of `network`."""
    config = ClassifierConfig(**{**vars(network.config), "exits": []})
    alone = Classifier(
        network.backbone,
        network.head,
        {},
        network.classes,
        network.image_size,
        config,
        network.loss,
    )
    alone.levels = network.levels
    return alone.eval()


def _exits(
    backbone: Backbone, names: Sequence[str], config: ClassifierConfig, classes: int, size: int
) -> dict[str, Exit]:
    last, deepest = list(backbone.features.items())[-1]
    signed = bool(names) and is_signed(backbone, last, size)
    return {
        name: Exit(
            backbone.features[name],
            deepest,
            classes,
            attention_kind=config.exit_attention,
            signed=signed,
        )
        for name in names
    }


def _parts(config: ClassifierConfig, classes: int) -> tuple[Backbone, Head]:
    """Backbone and head, with weights, attention and cheaper convolutions as the config says."""
    if config.weights and config.convolutions != "full":
        raise ConfigError(
            f"model.weights: {config.convolutions} convolutions start from scratch; leave the "
            "weights out."
        )
    attended = _has_attention(config.weights) if config.attention != "none" else None
    if attended:  # its blocks are weights, too: they are loaded when these are there
        config = ClassifierConfig(**{**vars(config), "weights": None})
    if config.backbone in BEHIND:
        backbone, head = _published(config, classes)
    else:
        if config.head == "published":
            raise ConfigError(
                f"model.head: 'published' is for {', '.join(BEHIND)}; '{config.backbone}' has a "
                "pooled one."
            )
        backbone = build_backbone(config.backbone, weights=config.weights)
        head = _pooled(
            list(backbone.features.values())[-1].channels, classes, config, nn.Identity()
        )
    compressed = config.convolutions != "full"
    if compressed and config.frozen_stages:
        raise ConfigError(
            f"model.frozen_stages: {config.convolutions} convolutions begin at random, and would "
            "stay so; leave it at 0."
        )
    if compressed and not compress(backbone, config.convolutions, config.groups):
        raise ConfigError(
            f"model.convolutions: '{config.backbone}' has no full convolution of 3x3 that "
            f"{config.convolutions} ones could replace; leave it at full."
        )
    attends = config.attention != "none"
    if attends:  # a network of timm becomes a row of stages, with room behind each
        backbone = backbone.until(list(backbone.features)[-1])
    backbone.freeze(config.frozen_stages)  # the blocks behind its stages learn all the same
    if attends:
        for name, feature in backbone.features.items():
            block = attention(config.attention, feature.channels)
            backbone.stages[name] = nn.Sequential(backbone.stages[name], block)
    if attended:
        load_weights(backbone, attended)
    return backbone, head


def _has_attention(weights: str | None) -> str | None:
    """The file, if it is a checkpoint whose network has attention behind its stages."""
    if weights is None or not is_checkpoint(weights):
        return None
    model = read_checkpoint(weights)["config"].get("model", {})
    return weights if model.get("attention", "none") != "none" else None


def _published(config: ClassifierConfig, classes: int) -> tuple[Backbone, Head]:
    _, cut, _ = PUBLISHED[config.backbone]
    behind = BEHIND[config.backbone]
    # Of a pooled head no fully connected layer is used, so none has to be in the file.
    unused = (behind.last,) if config.head == "published" else ("fc.", "classifier.")
    begun = is_checkpoint(config.weights)
    net: Any = published_network(config.backbone, None if begun else config.weights, unused)
    tail = behind.tail(net)
    stages = cut(net)
    backbone = Backbone(stages, measure_stages(stages))
    if begun:
        load_weights(backbone, str(config.weights))
    channels = _channels_behind(backbone, tail)
    if config.head == "pooled":
        return backbone, _pooled(channels, classes, config, tail)
    hidden = behind.hidden(net)
    widths = [layer.out_features for layer in hidden.modules() if isinstance(layer, nn.Linear)]
    width = widths[-1] if widths else channels * behind.cells**2
    return backbone, Head(tail, behind.cells, hidden, width, classes)


def _pooled(channels: int, classes: int, config: ClassifierConfig, tail: nn.Module) -> Head:
    return Head(tail, 1, nn.Dropout(config.dropout), channels, classes)


@torch.no_grad()
def _channels_behind(backbone: Backbone, tail: nn.Module) -> int:
    """Channels that the tail gives."""
    last = list(backbone.features.values())[-1]
    channels = tail.eval()(torch.zeros(1, last.channels, 2, 2)).shape[1]
    tail.train()
    return int(channels)


def classifier_from(checkpoint: dict[str, Any], path: str | Path) -> Classifier:
    """The classifier that a checkpoint (as `read_checkpoint` gives it) describes.

    Raises:
        CheckpointError: its config or weights are not those of a classifier.
    """
    network = network_from(checkpoint, path, Classifier.kind, ClassifierConfig, build_classifier)
    network.levels = levels_in(checkpoint)
    return network
