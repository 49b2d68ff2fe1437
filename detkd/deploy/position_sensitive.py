"""Position-sensitive RoIAlign in terms of RoIAlign, which ONNX has."""

from __future__ import annotations

import torch
from torch import Tensor

from detkd.deploy.operators import pooled


def position_sensitive(
    maps: list[Tensor],
    rois: Tensor,
    places: Tensor,
    scales: list[float],
    cells: int,
    points: int,
) -> Tensor:
    """RoI features [R, A, p, p], p = `cells`, as torchvision's ps_roi_align gives them.

    Arguments are those of `pooled`, with maps [N, A p², h, w]. The channels of each cell become an
    image of their own, and each cell of a RoI a RoI of one cell in that image: as many points are
    sampled as are needed, and no more.
    """
    count = cells**2
    images = [_image_a_cell(each, count) for each in maps]
    features = images[0].shape[1]
    at = torch.arange(count, device=rois.device)
    frame, left, top, right, bottom = rois.unsqueeze(2).unbind(1)  # [R, 1] each
    wide, high = (right - left) / cells, (bottom - top) / cells
    row = torch.div(at, cells, rounding_mode="floor")
    left, top = left + at % cells * wide, top + row * high
    boxes = torch.stack([frame * count + at, left, top, left + wide, top + high], dim=2)
    places = places.unsqueeze(1).expand(-1, count).reshape(-1)
    found = pooled(images, boxes.view(-1, 5), places, scales, 1, points, True)
    return found.view(-1, count, features).transpose(1, 2).reshape(-1, features, cells, cells)


def _image_a_cell(level: Tensor, count: int) -> Tensor:
    """[N, A * count, h, w], channel a * count + k, to [N * count, A, h, w], image n * count + k."""
    batch, channels, height, width = level.shape
    apart = level.view(batch, channels // count, count, height, width).transpose(1, 2)
    return apart.reshape(batch * count, channels // count, height, width)
