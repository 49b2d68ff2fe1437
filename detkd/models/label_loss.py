"""What a wrong label costs: cross entropy, focal, or adjusted to how common the classes are.

Labels come as probabilities, so that mixed images are served, too. Computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detkd.config import LabelLossConfig
from detkd.errors import ConfigError


class LabelLoss(nn.Module):
    """Mean over images of the loss of logits z [N, K] against label probabilities y [N, K].

    With p = softmax(z):

    - cross_entropy: −Σ_k y'_k log p_k,  y' = (1 − ε) y + ε / K  (ε: smoothing, Szegedy et al.,
      CVPR 2016);
    - focal: −Σ_k y'_k (1 − p_k)^γ log p_k  (Lin et al., ICCV 2017, for K classes): what is right
      already counts little;
    - logit_adjusted: cross entropy of z + τ log π, with π_k the share of class k of the images that
      are shown (Menon et al., ICLR 2021): logits must win against what is common, and the bare z
      are used afterwards, as if classes were equally common.

    Args:
        config: which one, and its numbers.
        counts: images of each class, or what they are in proportion to, as they are shown: for π.
    """

    log_shares: Tensor

    def __init__(self, config: LabelLossConfig, counts: Sequence[float] = ()) -> None:
        super().__init__()
        self.config = config
        if config.name == "logit_adjusted" and not (counts and min(counts) > 0):
            raise ConfigError(
                "loss.name: logit_adjusted needs an image of every class to learn from; leave "
                "the empty ones out (data.leave_out), or take cross_entropy."
            )
        shares = torch.tensor(counts or [1], dtype=torch.float32)
        # It is of the training data and no weight, so it stays out of checkpoints.
        self.register_buffer("log_shares", (shares / shares.sum()).log(), persistent=False)

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss, times `config.weight`, as a number without a shape."""
        config, z = self.config, logits if logits.dtype == torch.float64 else logits.float()
        y = labels.to(z.dtype)
        if config.name == "logit_adjusted":
            z = z + config.tau * self.log_shares.to(z.dtype)
        if config.smoothing:
            y = (1 - config.smoothing) * y + config.smoothing / z.shape[1]
        log_p = z.log_softmax(1)
        if config.name == "focal":
            # Not 0, where a power below 1 has no finite slope.
            y = y * (1 - log_p.exp()).clamp(min=torch.finfo(z.dtype).eps) ** config.gamma
        return config.weight * -(y * log_p).sum(1).mean()


def label_probabilities(targets: Sequence[dict[str, Tensor]], classes: int) -> Tensor:
    """[N, K] of a batch's targets: of mixed images as they say, of all others all on `label`."""
    rows = []
    for target in targets:
        if "probabilities" in target:
            rows.append(target["probabilities"].float())
        else:
            rows.append(nn.functional.one_hot(target["label"], classes).float())
    return torch.stack(rows)
