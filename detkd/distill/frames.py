"""Frames without annotations: the teacher's boxes stand in for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou, nms

from detkd.models.detector import Detector

UNLABELLED = "unlabelled"  # key of a target that says so
SEEN = 0.5  # score from which the teacher's boxes decide which proposals are looked at
TOUCHING = 0.3  # overlap from which a box is not clearly background beside an uncertain one


def split_batch(
    images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]
) -> tuple[list[int], list[int]]:
    """Places of the annotated images of a batch, and of the others."""
    without = [at for at, target in enumerate(targets) if UNLABELLED in target]
    return [at for at in range(len(images)) if at not in without], without


@torch.no_grad()
def boxes_of_teacher(
    teacher: Detector,
    images: Sequence[Tensor],
    batch: ImageList,
    maps: Mapping[str, Tensor],
    sure: float,
    unsure: float,
) -> tuple[list[dict[str, Tensor]], list[Tensor]]:
    """Targets from the teacher's detections with a score of `sure` or more, in px of `images`.

    Where classes are judged alone, two may be sure of one object: the surer one names it.
    `batch` and `maps` are what the teacher has already made of them. Besides, in px of the batch,
    the boxes [M, 4] of each image whose score lies from `unsure` to below `sure`.
    """
    levels = {name: maps[name] for name in teacher.backbone.neck.features}
    proposals, _ = teacher.rpn(batch, levels)
    found, _ = teacher.roi_heads(levels, proposals, batch.image_sizes)
    uncertain = [
        each["boxes"][(each["scores"] >= unsure) & (each["scores"] < sure)] for each in found
    ]
    sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in images]
    found = teacher.transform.postprocess(found, batch.image_sizes, sizes)
    targets = []
    for each in found:
        width, height = (each["boxes"][:, 2:] - each["boxes"][:, :2]).unbind(1)
        kept = torch.where((each["scores"] >= sure) & (width > 0) & (height > 0))[0]
        if teacher.config.classifier == "sigmoid":
            overlap = teacher.roi_heads.nms_thresh
            kept = kept[nms(each["boxes"][kept], each["scores"][kept], overlap)]
        targets.append({"boxes": each["boxes"][kept], "labels": each["labels"][kept]})
    return targets, uncertain


@contextmanager
def ignoring(student: Detector, uncertain: Sequence[Tensor]) -> Iterator[None]:
    """Inside, anchors and proposals that touch an uncertain box are no examples of background.

    Args:
        uncertain: boxes [M, 4] of each image, in px of the batch.
    """
    anchors, proposals = (
        student.rpn.assign_targets_to_anchors,
        student.roi_heads.assign_targets_to_proposals,
    )

    def unless_touching(boxes: Sequence[Tensor], labels: Sequence[Tensor]) -> None:
        for each, label, avoid in zip(boxes, labels, uncertain, strict=True):
            if len(avoid):
                overlaps = box_iou(each, avoid.to(each.dtype)).amax(1)
                left_out = torch.where((overlaps >= TOUCHING) & (label == 0))[0]
                if len(left_out) == int((label >= 0).sum()):  # a mean needs an example
                    left_out = left_out[overlaps[left_out].argsort()[1:]]
                label[left_out] = -1

    def to_anchors(boxes: Any, targets: Any) -> Any:
        labels, matched = anchors(boxes, targets)
        unless_touching(boxes, labels)
        return labels, matched

    def to_proposals(boxes: Any, truth: Any, names: Any) -> Any:
        matched, labels = proposals(boxes, truth, names)
        unless_touching(boxes, labels)
        return matched, labels

    student.rpn.assign_targets_to_anchors = to_anchors
    student.roi_heads.assign_targets_to_proposals = to_proposals
    try:
        yield
    finally:
        del student.rpn.assign_targets_to_anchors, student.roi_heads.assign_targets_to_proposals
