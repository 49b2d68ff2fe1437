"""Cosine distance of features."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.reduction import full, masked_mean
from detkd.distill.view import View


class CosineDistance(nn.Module):
    """Match the direction of the feature vector of each cell, whatever its length.

        L = mean over cells of 1 − ⟨s, t⟩ / (‖s‖ ‖t‖)

    with the products over channels. Between 0 and 2, so the weight is of the order of one. The
    length is not taught, which inherited heads rely on: the task loss has to see to it, or a
    small `hint` beside it. Where the teacher's vector is zero there is no direction to match, and
    the cell is left out. A classifier's `pooled` and `logits` are maps of one cell: there it is
    the mean over images of one minus the cosine of the two vectors.
    """

    needs_equal_width = True
    published = None

    def forward(
        self, student: Float[Tensor, "n c h w"], teacher: Float[Tensor, "n c h w"], view: View
    ) -> Float[Tensor, ""]:
        s, t = full(student), full(teacher)
        has_direction = t.norm(dim=1, keepdim=True) > 1e-8
        distance = 1 - F.cosine_similarity(s, t, dim=1, eps=1e-8).unsqueeze(1)
        return masked_mean(distance, view.valid(s) & has_direction)
