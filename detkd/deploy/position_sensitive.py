"""Position-sensitive RoIAlign in terms of RoIAlign, which ONNX has."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import roi_align


def position_sensitive_roi_align(
    level: Tensor, rois: Tensor, cells: list[int], scale: float, points: int
) -> Tensor:
    """What torchvision's ps_roi_align gives: [R, A, p, p] of [N, A p², h, w] and rois [R, 5].

    The channels of each cell become an image of their own, and each cell of a RoI a RoI of one
    cell in it: as many points are sampled as there are values to be had, and no more.
    """
    size = cells[0]
    batch, channels, height, width = level.shape
    features = channels // size**2
    images = level.view(batch, features, size**2, height, width).transpose(1, 2)
    images = images.reshape(batch * size**2, features, height, width)
    at = torch.arange(size**2, device=rois.device)
    frame, left, top, right, bottom = rois.unsqueeze(2).unbind(1)  # [R, 1] each
    wide, high = (right - left) / size, (bottom - top) / size
    left, top = left + at % size * wide, top + torch.div(at, size, rounding_mode="floor") * high
    boxes = torch.stack([frame * size**2 + at, left, top, left + wide, top + high], dim=2)
    found = roi_align(images, boxes.view(-1, 5), 1, scale, points, aligned=True)
    return found.view(-1, size**2, features).transpose(1, 2).reshape(-1, features, size, size)
