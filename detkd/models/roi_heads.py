"""What the RoI head's logits say of R proposals and K classes, in two forms (`model.classifier`).

softmax: logits [R, K+1], background first; the classes exclude each other. This is Faster R-CNN's.
sigmoid: logits [R, K]; each class is judged alone, and background is where none of them is seen.

Box deltas are [R, 4(K+1)] in both, those of the background first, so that label k finds its own in
one way everywhere.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import RoIHeads, fastrcnn_loss
from torchvision.ops import batched_nms, clip_boxes_to_image, remove_small_boxes

from detkd.errors import ConfigError

CLASSIFIERS = ("softmax", "sigmoid")


def object_scores(logits: Tensor, classifier: str) -> Tensor:
    """Scores [..., K] of the K classes."""
    return logits.sigmoid() if classifier == "sigmoid" else logits.softmax(-1)[..., 1:]


def likeliest(logits: Tensor, classifier: str) -> Tensor:
    """The label of each proposal [R] that is believed most; 0 is background.

    By sigmoids it is background where every class is less likely than not.
    """
    if classifier == "sigmoid":
        highest, at = logits.max(1)
        return torch.where(highest > 0, at + 1, 0)
    return logits.argmax(1)


def class_loss(logits: Tensor, labels: Tensor, classifier: str) -> Tensor:
    """The mean over proposals of what their logits cost by labels [R] from 0 (background) to K.

    softmax: cross entropy. sigmoid: binary cross entropy against one-hot targets (all zero for
    background), the sum over classes. Either way a logit's gradient is (p − y) / R, and for one
    class the two losses are the same, so that the terms beside them need no other weights.
    """
    if classifier == "softmax":
        return F.cross_entropy(logits, labels)
    classes = logits.shape[1]
    targets = F.one_hot(labels, classes + 1)[:, 1:].to(logits.dtype)
    total = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
    return total / max(1, len(labels))


def rare_at_first(layer: nn.Linear) -> None:
    """Start a layer of K sigmoids where a softmax of equal logits starts: at scores of 1/(K+1).

    That is a bias of −log K. From 1/2 the loss would begin at K log 2, nearly all of it due to
    classes that are not there, and the first steps would teach the features nothing but that
    classes are rare (Lin et al., Focal loss, ICCV 2017).
    """
    nn.init.constant_(layer.bias, -math.log(max(1, layer.out_features)))


class BoxPredictor(nn.Module):
    """Class logits [R, K+1], or [R, K] for sigmoids, and box deltas [R, 4(K+1)] of RoI features.

    Both in single precision, whatever the features' is: boxes are decoded in that of their deltas,
    and half precision counts the px of a frame in steps of two.

    Raises:
        ConfigError: another classifier than these two.
    """

    def __init__(self, width: int, classes: int, classifier: str = "softmax") -> None:
        super().__init__()
        if classifier not in CLASSIFIERS:
            raise ConfigError(f"model.classifier: '{classifier}' is not softmax or sigmoid.")
        alone = classifier == "sigmoid"
        self.cls_score = nn.Linear(width, classes if alone else classes + 1)
        self.bbox_pred = nn.Linear(width, 4 * (classes + 1))
        if alone:
            rare_at_first(self.cls_score)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x).float(), self.bbox_pred(x).float()


class SigmoidRoIHeads(RoIHeads):
    """torchvision's RoI head, with the class logits read as sigmoids in loss and detections.

    Args:
        heads: whose parts and settings it takes.
    """

    def __init__(self, heads: RoIHeads) -> None:
        matcher, sampler = heads.proposal_matcher, heads.fg_bg_sampler
        super().__init__(
            heads.box_roi_pool,
            heads.box_head,
            heads.box_predictor,
            matcher.high_threshold,
            matcher.low_threshold,
            sampler.batch_size_per_image,
            sampler.positive_fraction,
            heads.box_coder.weights,
            heads.score_thresh,
            heads.nms_thresh,
            heads.detections_per_img,
        )

    def forward(
        self,
        features: dict[str, Tensor],
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
        targets: list[dict[str, Tensor]] | None = None,
    ) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
        if self.training:
            proposals, _, labels, deltas = self.select_training_samples(proposals, targets)
        pooled = self.box_roi_pool(features, proposals, image_shapes)
        logits, boxes = self.box_predictor(self.box_head(pooled))
        if self.training:
            # The boxes' loss is torchvision's, which wants the logits of background, too.
            _, box_loss = fastrcnn_loss(F.pad(logits, (1, 0)), boxes, labels, deltas)
            loss = class_loss(logits.float(), torch.cat(labels), "sigmoid")
            return [], {"loss_classifier": loss, "loss_box_reg": box_loss}
        found = self.postprocess_detections(logits, boxes, proposals, image_shapes)
        return [
            {"boxes": box, "scores": score, "labels": label}
            for box, score, label in zip(*found, strict=True)
        ], {}

    def postprocess_detections(
        self,
        class_logits: Tensor,
        box_regression: Tensor,
        proposals: list[Tensor],
        image_shapes: list[tuple[int, int]],
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Boxes [D, 4], scores [D] and labels [D] of each image, best first.

        As in torchvision a box of low score or without a size is dropped, then NMS runs in each
        class alone.
        """
        classes = class_logits.shape[1]
        counts = [len(each) for each in proposals]
        decoded = self.box_coder.decode(box_regression, proposals).reshape(-1, classes + 1, 4)
        by_class = object_scores(class_logits.float(), "sigmoid")
        found: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, shape in zip(
            decoded[:, 1:].split(counts), by_class.split(counts), image_shapes, strict=True
        ):
            # Proposal by proposal, class by class: the order decides between equal scores.
            boxes = clip_boxes_to_image(boxes, shape).reshape(-1, 4)
            labels = torch.arange(1, classes + 1, device=boxes.device).repeat(len(scores))
            at = torch.where(scores.flatten() > self.score_thresh)[0]
            at = at[remove_small_boxes(boxes[at], min_size=1e-2)]
            boxes, scores, labels = boxes[at], scores.flatten()[at], labels[at]
            best = batched_nms(boxes, scores, labels, self.nms_thresh)[: self.detections_per_img]
            for all_of_it, each in zip(found, (boxes, scores, labels), strict=True):
                all_of_it.append(each[best])
        return found
