"""DeFeat: features of objects and of background apart (Guo et al., CVPR 2021)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View


class DecoupledFeatures(nn.Module):
    """Squared distance on objects and on the rest, each a mean of its own.

        L = a · mean over objects' cells of (s − t)² + b · mean over the other cells of (s − t)²

    So a frame of one small cell teaches that cell as loudly as its empty water. Background weighs
    more in the paper (a : b = 1 : 4, the default); it is there that false positives are unlearned.
    Padding belongs to neither. The published 3 (objects) and 12 carry a half in front.

    Args:
        objects: a, the weight of cells that belong to truth boxes.
        background: b, the weight of all others.
    """

    needs_equal_width = True
    published = 0.5

    def __init__(self, objects: float = 1.0, background: float = 4.0) -> None:
        super().__init__()
        self.objects, self.background = objects, background

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        valid, near = view.valid(student), view.near_objects(student)
        distance = (full(student) - full(teacher)) ** 2
        on_objects = masked_mean(distance, valid & near)
        elsewhere = masked_mean(distance, valid & ~near)
        return self.objects * on_objects + self.background * elsewhere
