"""What student and teacher both saw: image sizes inside the padded batch, and the truth."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """The batch behind a pair of feature maps.

    `image_sizes` are (height, width) in px before padding, `padded_size` is that of the batch;
    `targets` hold boxes [N, 4] xyxy in the same frame.
    """

    image_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]
    targets: list[dict[str, Tensor]] = field(default_factory=list)

    @property
    def is_padded(self) -> bool:
        """Whether any image is smaller than the batch."""
        return any(tuple(size) != tuple(self.padded_size) for size in self.image_sizes)

    def valid(self, features: Tensor) -> Tensor:
        """Cells [N, 1, h, w] whose centre lies in the image; padding is False."""
        return torch.stack(
            [
                self._inside(features, torch.tensor([[0.0, 0.0, width, height]]))
                for height, width in self.image_sizes
            ]
        )

    def near_objects(self, features: Tensor) -> Tensor:
        """Cells [N, 1, h, w] whose centre lies in a truth box, and each box's own centre cell.

        The centre cell is added for objects that fall between the centres of a coarse level.
        """
        masks = []
        for target in self.targets:
            boxes = target["boxes"].detach()
            mask = self._inside(features, boxes)
            rows, columns = self._cells(features)
            if len(boxes):
                centre = (boxes[:, :2] + boxes[:, 2:]) / 2
                column = (centre[:, 0] / (self.padded_size[1] / len(columns))).long()
                row = (centre[:, 1] / (self.padded_size[0] / len(rows))).long()
                mask[0, row.clamp(0, len(rows) - 1), column.clamp(0, len(columns) - 1)] = True
            masks.append(mask)
        return torch.stack(masks)

    def _cells(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Centres of the rows and of the columns in px."""
        height, width = features.shape[-2:]
        rows = (torch.arange(height, device=features.device) + 0.5) * self.padded_size[0] / height
        columns = (torch.arange(width, device=features.device) + 0.5) * self.padded_size[1] / width
        return rows, columns

    def _inside(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Cells [1, h, w] whose centre lies in any of the boxes [M, 4]."""
        rows, columns = self._cells(features)
        boxes = boxes.to(features.device)
        in_row = (rows >= boxes[:, 1:2]) & (rows < boxes[:, 3:4])  # [M, h]
        in_column = (columns >= boxes[:, 0:1]) & (columns < boxes[:, 2:3])  # [M, w]
        return (in_row[:, :, None] & in_column[:, None, :]).any(0, keepdim=True)
