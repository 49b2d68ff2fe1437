"""One list of proposals through both RoI heads, so that row r means the same box in both."""

from __future__ import annotations

from torch import Tensor

from detkd.distill.taps import Reading
from detkd.models.detector import Detector


def roi_logits(teacher: Detector, features: dict[str, Tensor], student: Reading) -> Tensor:
    """The teacher's class logits [R, K+1] for the proposals that the student was given.

    `features` are the teacher's levels of the same batch.
    """
    heads = teacher.roi_heads
    levels = {name: features[name] for name in teacher.backbone.neck.features}
    pooled = heads.box_roi_pool(levels, student.proposals, student.image_sizes)
    logits, _ = heads.box_predictor(heads.box_head(pooled))
    rows = sum(len(boxes) for boxes in student.proposals)
    assert logits.shape == student.features["roi.logits"].shape, (logits.shape, rows)
    return logits
