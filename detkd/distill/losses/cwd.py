"""CWD: channel-wise distillation (Shu et al., ICCV 2021)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full
from detkd.distill.view import View


class ChannelWise(nn.Module):
    """Match, channel by channel, where in the image the channel responds.

        L = τ² · mean over images and channels of KL( φ(t_c) ‖ φ(s_c) ),   φ(f) = softmax(f / τ)

    with the softmax over the cells of the image; padding takes no part. Adding a constant to a
    channel changes nothing. The published weight is 10 at τ = 1.
    """

    needs_equal_width = True
    needs_cells = True
    sums_levels = True

    def __init__(self, tau: float = 1.0) -> None:
        super().__init__()
        self.tau = tau

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        padding = ~view.valid(student).flatten(2)  # [N, 1, h·w]
        log_s = _log_softmax(full(student).flatten(2) / self.tau, padding)
        log_t = _log_softmax(full(teacher).flatten(2) / self.tau, padding)
        divergence = (log_t.exp() * (log_t - log_s)).masked_fill(padding, 0.0).sum(2)
        return self.tau**2 * divergence.mean()


def _log_softmax(rows: Tensor, padding: Tensor) -> Tensor:
    # A large negative number rather than -inf, whose differences are not numbers.
    return torch.log_softmax(rows.masked_fill(padding, -1e9), dim=2)
