"""ReviewKD: knowledge review (Chen et al., CVPR 2021)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View

POOLED = (4, 2, 1)  # cells a side, each of half the weight of the one before


class KnowledgeReview(nn.Module):
    """Deep features of the student help to match the teacher's earlier ones.

    From the deepest feature of `at` to the finest, the student's map is fused with what came from
    below by two learned maps of attention, and compared with the teacher's at full size and
    pooled to 4x4, 2x2 and 1x1 cells (weights 1, 1/2, 1/4, 1/8, scaled to a sum of one):

        L = mean over features of Σ_p w_p mean (pool_p(s̃) − pool_p(t))²

    The fusing convolutions are trained and left behind; so it is not zero when the two agree. The
    published weights are 1 (ResNet-50 student), 1.2 (ResNet-18) and 2 (MobileNetV2), summed over
    five levels.

    Args:
        student_channels, teacher_channels: widths of the features, given by the distiller.
        width: channels in which features are fused.
    """

    needs_equal_width = False
    joint = True
    fine_to_deep = True
    sums_levels = True

    def __init__(
        self, student_channels: Sequence[int], teacher_channels: Sequence[int], width: int = 128
    ) -> None:
        super().__init__()
        last = len(student_channels) - 1
        self.fuse = nn.ModuleList(
            [
                Fusion(ours, width, theirs, alone=at == last)
                for at, (ours, theirs) in enumerate(
                    zip(student_channels, teacher_channels, strict=True)
                )
            ]
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor], view: View) -> Tensor:
        below: Tensor | None = None
        losses = []
        for at in reversed(range(len(student))):
            valid = view.valid(student[at])
            out, below = self.fuse[at](full(student[at]), below, valid)
            losses.append(_hierarchical(out, full(teacher[at]), valid))
        return torch.stack(losses).mean()


class Fusion(nn.Module):
    """A student's feature with what came from the deeper ones, at the teacher's width.

    The paper has batch norms behind its convolutions; at a small lab's batches, with padding in
    them, their statistics would be noise.
    """

    def __init__(self, student: int, width: int, teacher: int, *, alone: bool) -> None:
        super().__init__()
        self.enter = nn.Conv2d(student, width, 1)
        self.attend = None if alone else nn.Conv2d(2 * width, 2, 1)
        self.leave = nn.Conv2d(width, teacher, 3, padding=1)

    def forward(
        self, features: Tensor, below: Tensor | None, valid: Tensor
    ) -> tuple[Tensor, Tensor]:
        x = self.enter(features)
        if self.attend is not None:
            assert below is not None
            below = F.interpolate(below, size=x.shape[-2:], mode="nearest")
            ours, theirs = self.attend(torch.cat([x, below], 1)).sigmoid().split(1, 1)
            x = ours * x + theirs * below
        x = x * valid
        return self.leave(x), x


def _hierarchical(student: Tensor, teacher: Tensor, valid: Tensor) -> Tensor:
    """Squared distance at full size and pooled, padding left out."""
    total, weight, weights = masked_mean((student - teacher) ** 2, valid), 1.0, 1.0
    cells = valid.to(student.dtype)
    for side in POOLED:
        if side >= min(student.shape[-2:]):
            continue
        weight /= 2
        counted = F.adaptive_avg_pool2d(cells, side)
        s, t = (F.adaptive_avg_pool2d(x * cells, side) for x in (student, teacher))
        difference = (s - t) / counted.clamp(min=1e-6)
        total = total + weight * masked_mean(difference**2, counted > 0)
        weights += weight
    return total / weights
