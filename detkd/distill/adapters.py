"""Bringing a student's features to the teacher's width and resolution, in training alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from detkd.models.backbones import Feature


class Adapter(nn.Module):
    """Bilinear resampling to the teacher's cells, then a 1x1 convolution to its channels.

    Each is left out where there is nothing to adapt. The teacher's map is never changed. No
    activation follows: a neck's features have both signs.
    """

    def __init__(self, student: Feature, teacher: Feature, *, equal_width: bool) -> None:
        super().__init__()
        self.project: nn.Module = nn.Identity()
        if equal_width and student.channels != teacher.channels:
            self.project = nn.Conv2d(student.channels, teacher.channels, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        if student.shape[-2:] != teacher.shape[-2:]:
            student = F.interpolate(
                student, size=teacher.shape[-2:], mode="bilinear", align_corners=False
            )
        return self.project(student)
