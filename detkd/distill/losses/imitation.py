"""Fine-grained feature imitation (Wang et al., CVPR 2019)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import box_iou

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View
from detkd.errors import ConfigError


class FineGrainedImitation(nn.Module):
    """Squared distance on the cells whose anchors come near an object.

    A cell counts for an object if one of its anchors overlaps it by more than a share ψ of the
    best that any anchor of any level reaches:

        L = mean over such cells and channels of (s − t)²

    Around an object, where student and teacher must tell good anchors from bad ones, rather than
    everywhere. With several levels each object counts on those that suit its size. Images without
    objects count for nothing. The published 0.01 is of half a sum over 512 channels.

    Args:
        share: ψ from 0 (all cells whose anchors touch an object) to below 1.
    """

    needs_equal_width = True
    reads = ("level",)
    published = 256.0

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"share is from 0 to below 1, not {share}")
        self.share = share

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        mask = view.valid(student) & self._near_anchors(student, view)
        return masked_mean((full(student) - full(teacher)) ** 2, mask)

    def _near_anchors(self, features: Tensor, view: View) -> Tensor:
        """Cells [N, 1, h, w] of this level that come near an object."""
        height, width = features.shape[-2:]
        if len(view.anchors[view.at]) % (height * width):
            raise ConfigError(
                f"distill.losses: 'imitation' at {view.at} has anchors for other cells than the "
                f"{height}x{width} of the teacher; take another backbone, or another loss."
            )
        masks = []
        for target in view.targets:
            boxes = target["boxes"].detach()
            near = torch.zeros(1, height, width, dtype=torch.bool, device=features.device)
            if len(boxes):
                best = torch.stack(
                    [box_iou(boxes, anchors).amax(1) for anchors in view.anchors.values()]
                ).amax(0)
                overlap = box_iou(boxes, view.anchors[view.at])  # [M, h·w·A]
                hit = (overlap > self.share * best[:, None]).any(0)
                near = hit.view(1, height, width, -1).any(3)
            masks.append(near)
        return torch.stack(masks)
