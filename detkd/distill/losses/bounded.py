"""The teacher as an upper bound for boxes (Chen et al., NIPS 2017)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.boxes import of_class
from detkd.distill.losses.reduction import full, mean_over
from detkd.distill.view import View


class BoundedBoxes(nn.Module):
    """Squared error of the student's boxes, as long as they are worse than the teacher's.

        L = mean over proposals of objects, and over the 4 deltas, of
            (s − y)²  where ‖s − y‖² + m > ‖t − y‖², else 0

    y are the true deltas and m a margin. A teacher's box may be wrong in any direction; it is
    no target, but says how far one can get. Proposals of background, and frames without
    annotations, count for nothing. With a margin it is not zero when the two agree. The published
    weight 0.5 is of a sum over the 4 deltas.

    Args:
        margin: m, in squared deltas.
    """

    needs_equal_width = True
    reads = ("roi.boxes",)
    published = 4.0

    def __init__(self, margin: float = 0.0) -> None:
        super().__init__()
        self.margin = margin

    def forward(
        self, student: Float[Tensor, "r d"], teacher: Float[Tensor, "r d"], view: View
    ) -> Float[Tensor, ""]:
        labels, truth = view.truth["labels"], full(view.truth["roi.boxes"])
        classes = labels.clamp(min=0)
        error = (of_class(full(student), classes) - truth).square().sum(1)
        bound = (of_class(full(teacher), classes) - truth).square().sum(1)
        is_object = labels > 0
        worse = (error.detach() + self.margin > bound) & is_object
        return mean_over(torch.where(worse, error, 0.0 * error) / 4, is_object)
