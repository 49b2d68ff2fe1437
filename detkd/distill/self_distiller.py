"""Self-distillation: the exits of a network learn from its deepest one (BYOT)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkd.config import SelfTeachConfig
from detkd.distill.classifier_distiller import view_of
from detkd.distill.losses.hint import Hint
from detkd.distill.losses.kl import LogitsKL
from detkd.errors import ConfigError
from detkd.models.classifier import Classifier
from detkd.models.label_loss import label_probabilities


class SelfDistiller(nn.Module):
    """`model(images, targets)` gives the losses of the head and of each exit.

    After 'Be Your Own Teacher' (Zhang et al., ICCV 2019), with q_i the logits of exit i, F_i what
    its bottleneck makes of its stage, and C the deepest, whose side is detached:

        L = CE(q_C, y) + Σ_i (1 − α) CE(q_i, y) + α KL(p_C ‖ p_i) + λ mean (F_i − F_C)²,
        p = softmax(q / T)

    F_C is the deepest stage. CE is what the config says a wrong label costs. The paper's squared
    distance is a norm; here it is the mean over cells and channels, as in every term, so that λ
    means the same at any size. In evaluation it is the network.

    Args:
        network: with exits.
        config: T, α, λ, and whether the KL is multiplied by T².

    Raises:
        ConfigError: the network has no exits.
    """

    def __init__(self, network: Classifier, config: SelfTeachConfig) -> None:
        super().__init__()
        if not network.exits:
            raise ConfigError(
                "self_distill: there is no exit to be taught; name stages in model.exits, such as "
                "[c2, c3, c4]."
            )
        self.student, self.config = network, config
        self.kl, self.hint = LogitsKL(config.temperature), Hint()

    @property
    def network(self) -> Classifier:
        """What is judged and kept: the network with its exits."""
        return self.student

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None) -> Any:
        if not self.training:
            return self.student(images)
        assert targets is not None
        network, config = self.student, self.config
        said = network.read(network.batch(images))
        labels = label_probabilities(targets, len(network.classes)).to(images[0].device)
        losses = {"loss_label": network.task(said, targets)}
        logits, features = said["logits"].detach(), said[network.deepest].detach()
        view = view_of(images, targets, {})
        scale = 1.0 if config.scale_by_temperature else config.temperature**-2
        with torch.autocast(device_type=images[0].device.type, enabled=False):
            for name in network.exits:
                own, mapped = said[f"{name}.logits"], said[f"{name}.features"]
                if mapped.shape[-2:] != features.shape[-2:]:
                    height, width = features.shape[-2:]
                    mapped = F.adaptive_avg_pool2d(mapped, (height, width))
                label = network.loss(own, labels)
                losses[f"loss_label@{name}"] = (1 - config.alpha) * label
                softened = scale * self.kl(own, logits, view)
                losses[f"kl@{name}"] = config.alpha * softened
                losses[f"hint@{name}"] = config.hint * self.hint(mapped, features, view)
        return losses
