"""Self-distillation: the exits of a network learn from its deepest one (BYOT)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkd.config import SelfTeachConfig
from detkd.distill.losses.kl import divergences
from detkd.distill.losses.reduction import full
from detkd.distill.teaching import Net
from detkd.errors import ConfigError
from detkd.models.classifier import Classifier
from detkd.models.label_loss import label_probabilities


@dataclass(frozen=True)
class Said:
    """What a network and its exits said of R images, or of R boxes in images.

    Args:
        task: the network's own losses.
        logits: [R, K] of the deepest exit, and
        features: [R, C, h, w] that lie behind them.
        exits: by stage, the features [R, C, h', w'] and the logits [R, K] of the exit there.
        cost: what logits [R, K] cost, by the labels.
        classifier: how logits are read: softmax or sigmoid.
    """

    task: dict[str, Tensor]
    logits: Tensor
    features: Tensor
    exits: Mapping[str, tuple[Tensor, Tensor]]
    cost: Callable[[Tensor], Tensor]
    classifier: str = "softmax"


class SelfTeaching(nn.Module, Generic[Net]):
    """`model(images, targets)` gives the losses of the network and of each exit.

    After 'Be Your Own Teacher' (Zhang et al., ICCV 2019), with q_i the logits of exit i, F_i what
    its bottleneck makes of its stage, and C the deepest, whose side is detached:

        L = CE(q_C, y) + Σ_i (1 − α) CE(q_i, y) + α KL(p_C ‖ p_i) + λ mean (F_i − F_C)²,
        p = softmax(q / T)

    F_C is the deepest stage. The paper's squared distance is a norm; here it is the mean over cells
    and channels, as in every term, so that λ means the same at any size. In evaluation it is the
    network.

    Args:
        network: that teaches its exits.
        exits: their stages.
        config: T, α, λ, and whether the KL is multiplied by T².
        key: of the config, under which exits are named.

    Raises:
        ConfigError: there are no exits.
    """

    def __init__(
        self, network: Net, exits: Collection[str], config: SelfTeachConfig, key: str
    ) -> None:
        super().__init__()
        if not exits:
            raise ConfigError(
                f"self_distill: there is no exit to be taught; name stages in {key}, such as "
                "[c2, c3]."
            )
        self.student: Net = network
        self.config = config

    @property
    def network(self) -> Net:
        """What is judged and kept."""
        return self.student

    def see(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Said:
        """What the network and its exits say of a batch, in training."""
        raise NotImplementedError

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if not self.training:
            return self.student(images)
        assert targets is not None
        config, said = self.config, self.see(images, targets)
        losses = dict(said.task)
        logits, features = full(said.logits.detach()), full(said.features.detach())
        scale = config.temperature**2 if config.scale_by_temperature else 1.0
        with torch.autocast(device_type=images[0].device.type, enabled=False):
            for name, (mapped, own) in said.exits.items():
                if mapped.shape[-2:] != features.shape[-2:]:
                    height, width = features.shape[-2:]
                    mapped = F.adaptive_avg_pool2d(mapped, (height, width))
                losses[f"loss_label@{name}"] = (1 - config.alpha) * said.cost(own)
                rows = divergences(full(own), logits, config.temperature, said.classifier)
                losses[f"kl@{name}"] = config.alpha * scale * rows.mean()
                losses[f"hint@{name}"] = config.hint * F.mse_loss(full(mapped), features)
        return losses


class SelfDistiller(SelfTeaching[Classifier]):
    """A classifier whose exits learn from its head; they are part of it, and stay.

    CE is what the config says a wrong label costs.

    Args:
        network: with exits.
        config: T, α, λ, and whether the KL is multiplied by T².

    Raises:
        ConfigError: the network has no exits.
    """

    def __init__(self, network: Classifier, config: SelfTeachConfig) -> None:
        super().__init__(network, list(network.exits), config, "model.exits")

    def see(self, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Said:
        network = self.student
        said = network.read(network.batch(images))
        labels = label_probabilities(targets, len(network.classes)).to(images[0].device)
        cost = partial(network.loss, labels=labels)
        return Said(
            {"loss_label": cost(said["logits"])},
            said["logits"],
            said[network.deepest],
            {name: (said[f"{name}.features"], said[f"{name}.logits"]) for name in network.exits},
            cost,
        )
