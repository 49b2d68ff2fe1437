"""What student and teacher both saw: image sizes inside the padded batch, and the truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from detkd.distill.outputs import Outputs
from detkd.distill.taps import Reading


@dataclass(frozen=True)
class View:
    """The batch behind a pair of tensors, and what else a method may ask of it.

    `image_sizes` are (height, width) in px before padding, `padded_size` is that of the batch;
    `targets` hold boxes [N, 4] xyxy in the same frame. `at` is the feature that is compared.
    `anchors` are those of each level [h·w·A, 4]. `teacher` and `truth` are named in
    `detkd/distill/outputs.py` and computed when a loss asks for them: what the teacher says, and
    which class and box each proposal should have had. `classifier` is how the logits in `teacher`,
    and those compared with them, are read: softmax or sigmoid (`detkd/models/roi_heads.py`).
    """

    image_sizes: list[tuple[int, int]]
    padded_size: tuple[int, int]
    targets: list[dict[str, Tensor]] = field(default_factory=list)
    at: str = ""
    anchors: Mapping[str, Tensor] = field(default_factory=dict)
    teacher: Mapping[str, Tensor] = field(default_factory=dict)
    truth: Mapping[str, Tensor] = field(default_factory=dict)
    classifier: str = "softmax"

    @classmethod
    def of_outputs(cls, reading: Reading, outputs: Outputs) -> View:
        """The view behind what both networks said of one batch."""
        return cls(
            reading.image_sizes,
            reading.padded_size,
            reading.targets,
            anchors=outputs.anchors,
            teacher=outputs.teacher,
            truth=outputs.truth,
            classifier=outputs.classifier,
        )

    def of(self, feature: str) -> View:
        """The same view, of one feature."""
        return replace(self, at=feature)

    @property
    def is_padded(self) -> bool:
        """Whether any image is smaller than the batch."""
        return any(tuple(size) != tuple(self.padded_size) for size in self.image_sizes)

    def valid(self, features: Tensor) -> Tensor:
        """Cells [N, 1, h, w] whose centre lies in the image; padding is False."""
        rows, columns = self._cells(features)
        sizes = torch.tensor(self.image_sizes, device=features.device)
        in_row, in_column = rows < sizes[:, :1], columns < sizes[:, 1:]  # [N, h], [N, w]
        return (in_row[:, :, None] & in_column[:, None, :])[:, None]

    def near_objects(self, features: Tensor) -> Tensor:
        """Cells [N, 1, h, w] that belong to any object."""
        return torch.stack([masks.any(0, keepdim=True) for masks in self.objects(features)])

    def objects(self, features: Tensor) -> list[Tensor]:
        """Cells [M, h, w] of each image's M objects: centre in the box, or the box's own centre.

        The latter is for objects that fall between the centres of a coarse level.
        """
        rows, columns = self._cells(features)
        found = []
        for target in self.targets:
            boxes = target["boxes"].detach().to(features.device)
            masks = self._covered(features, boxes)
            centre = (boxes[:, :2] + boxes[:, 2:]) / 2
            column = (centre[:, 0] / (self.padded_size[1] / len(columns))).long()
            row = (centre[:, 1] / (self.padded_size[0] / len(rows))).long()
            each = torch.arange(len(boxes), device=features.device)
            masks[each, row.clamp(0, len(rows) - 1), column.clamp(0, len(columns) - 1)] = True
            found.append(masks)
        return found

    def _cells(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Centres of the rows and of the columns in px."""
        height, width = features.shape[-2:]
        rows = (torch.arange(height, device=features.device) + 0.5) * self.padded_size[0] / height
        columns = (torch.arange(width, device=features.device) + 0.5) * self.padded_size[1] / width
        return rows, columns

    def _covered(self, features: Tensor, boxes: Tensor) -> Tensor:
        """Cells [M, h, w] whose centre lies in each of the boxes [M, 4]."""
        rows, columns = self._cells(features)
        in_row = (rows >= boxes[:, 1:2]) & (rows < boxes[:, 3:4])  # [M, h]
        in_column = (columns >= boxes[:, 0:1]) & (columns < boxes[:, 2:3])  # [M, w]
        return in_row[:, :, None] & in_column[:, None, :]
