"""Logits of objects and of background apart (Guo et al., CVPR 2021: DeFeat's RoI part)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from detkd.distill.losses.dkd import target_classes
from detkd.distill.losses.kl import divergences
from detkd.distill.losses.reduction import full, mean_over
from detkd.distill.view import View
from detkd.models.roi_heads import CLASSIFIERS


class GroupedKL(nn.Module):
    """KL of the class probabilities, a mean over objects' proposals and one over background's.

        L = T² · ( a · mean over proposals of objects of KL(p_t ‖ p_s)
                 + b · mean over those of background of KL(p_t ‖ p_s) )

    Most proposals are background, so in a mean over all of them the few cells are drowned. Which
    is which says the truth, or the teacher in a frame without annotations. Published with 2 and 2.
    The KL of a head that judges each class alone is that of `kl`, a sum over classes.

    Args:
        objects, background: a and b.
        temperature: T.
    """

    needs_equal_width = True
    reads = ("roi.logits", "cross.logits")
    classifiers = CLASSIFIERS

    def __init__(
        self, objects: float = 1.0, background: float = 1.0, temperature: float = 1.0
    ) -> None:
        super().__init__()
        self.objects, self.background, self.temperature = objects, background, temperature

    def forward(
        self, student: Float[Tensor, "r k"], teacher: Float[Tensor, "r k"], view: View
    ) -> Float[Tensor, ""]:
        s, t = full(student), full(teacher)
        divergence = divergences(s, t, self.temperature, view.classifier)
        is_object = target_classes(t, view) > 0
        total = self.objects * mean_over(divergence, is_object)
        total = total + self.background * mean_over(divergence, ~is_object)
        return self.temperature**2 * total
