"""The detector as one graph: frames in, detections of a fixed number out.

It computes from a detector's own parts what torchvision's Faster R-CNN does in evaluation, with
tensors whose shapes do not depend on the values in them: a box that torchvision drops stays here
with a score that never wins. So it passes the exporter, and any frame passes it: one without a
proposal, with one object, or with hundreds.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.rpn import permute_and_flatten
from torchvision.ops import clip_boxes_to_image

from detkd.deploy.operators import LEFT_OUT, best, nms_mask, pooled
from detkd.deploy.parts import Convolutions, RegionHead
from detkd.deploy.position_sensitive import position_sensitive
from detkd.models.detector import Detector
from detkd.models.roi_features import PositionSensitiveRoIAlign
from detkd.models.roi_heads import object_scores


class DetectionGraph(nn.Module):
    """Frames [N, 3, H, W] to boxes [N, D, 4], scores [N, D], labels [N, D] and counts [N].

    A frame is RGB from 0 to 1, resized so that its longest side is the detector's `image_size`;
    boxes are xyxy in px of it. The first `count` rows are detections, best first; those behind
    them are 0. D is the detector's limit.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.convolutions, self.region_head = Convolutions(detector), RegionHead(detector)
        self.eval()

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        height, width = frames.shape[-2:]
        maps = self.convolutions(frames)
        n = len(self.detector.backbone.neck.features)
        levels, objectness, deltas = maps[:n], maps[n : 2 * n], maps[2 * n : 3 * n]
        anchors = self._anchors(levels, height, width)
        proposals, real = self._proposals(objectness, deltas, anchors, height, width)
        logits, box_deltas = self.region_head(self._pooled(maps[3 * n :] or levels, proposals))
        return self._detections(logits, box_deltas, proposals, real, height, width)

    def _anchors(self, levels: tuple[Tensor, ...], height: int, width: int) -> list[Tensor]:
        """Anchors [h * w * A, 4] of each level, in the order of the flattened maps."""
        generator = self.detector.rpn.anchor_generator
        generator.set_cell_anchors(levels[0].dtype, levels[0].device)
        multiple = self.detector.transform.size_divisible
        rows, columns = (side + -side % multiple for side in (height, width))
        sizes = [level.shape[-2:] for level in levels]
        return generator.grid_anchors(sizes, [[rows // h, columns // w] for h, w in sizes])

    def _proposals(
        self,
        objectness: tuple[Tensor, ...],
        deltas: tuple[Tensor, ...],
        anchors: list[Tensor],
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor]:
        """Proposals [N, P, 4], and which of them are some [N, P]."""
        rpn = self.detector.rpn
        before, after = rpn.pre_nms_top_n(), rpn.post_nms_top_n()
        kept_boxes, kept_scores = [], []
        for logits, delta, anchor in zip(objectness, deltas, anchors, strict=True):
            batch = logits.shape[0]
            flat = _flattened(logits, 1).squeeze(2)
            # A level may have fewer anchors than are taken: boxes of no size fill it up.
            flat = torch.cat([flat, flat.new_full((batch, before), -math.inf)], dim=1)
            highest, at = best(flat, before)
            filled = torch.cat([_flattened(delta, 4), delta.new_zeros(batch, before, 4)], dim=1)
            corners = torch.cat([anchor, anchor.new_zeros(before, 4)])
            chosen = filled.gather(1, at.unsqueeze(2).expand(-1, -1, 4))
            boxes = _decode(rpn.box_coder, chosen, corners[at])
            boxes = clip_boxes_to_image(boxes, (height, width))
            scores = highest.sigmoid()
            fits = _larger(boxes, rpn.min_size) & (scores >= rpn.score_thresh)
            scores = torch.where(fits, scores, LEFT_OUT)
            keep = nms_mask(boxes, scores, float(rpn.nms_thresh))
            kept_boxes.append(boxes)
            kept_scores.append(torch.where(keep, scores, LEFT_OUT))
        scores, at = best(torch.cat(kept_scores, dim=1), after)
        boxes = torch.cat(kept_boxes, dim=1).gather(1, at.unsqueeze(2).expand(-1, -1, 4))
        real = scores > LEFT_OUT
        return torch.where(real.unsqueeze(2), boxes, 0.0), real

    def _pooled(self, maps: tuple[Tensor, ...], proposals: Tensor) -> Tensor:
        """RoI features [N * P, c, s, s], each from the map of the level of its size."""
        pool = self.detector.roi_heads.box_roi_pool
        batch, count = proposals.shape[:2]
        boxes = proposals.reshape(-1, 4)
        frame = torch.arange(batch, dtype=boxes.dtype).view(-1, 1).expand(-1, count)
        rois = torch.cat([frame.reshape(-1, 1), boxes], dim=1)
        cells, points = pool.output_size[0], pool.sampling_ratio
        what = (list(maps), rois, pool.map_levels([boxes]), pool.scales, cells, points)
        if isinstance(pool, PositionSensitiveRoIAlign):
            return position_sensitive(*what)
        return pooled(*what, False)

    def _detections(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Tensor,
        real: Tensor,
        height: int,
        width: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        heads = self.detector.roi_heads
        batch, count = real.shape
        classes = deltas.shape[-1] // 4 - 1
        scores = object_scores(logits, self.detector.config.classifier)
        scores = scores.view(batch, count, classes).transpose(1, 2)
        deltas = deltas.view(batch, count, classes + 1, 4)[:, :, 1:].transpose(1, 2)
        corners = proposals.unsqueeze(1).expand(-1, classes, -1, -1)
        boxes = clip_boxes_to_image(_decode(heads.box_coder, deltas, corners), (height, width))
        fits = real.unsqueeze(1) & (scores > heads.score_thresh) & _larger(boxes, 1e-2)
        scores = torch.where(fits, scores, LEFT_OUT)
        keep = nms_mask(
            boxes.reshape(batch * classes, count, 4),
            scores.reshape(batch * classes, count),
            float(heads.nms_thresh),
        ).view(batch, classes, count)
        # As torchvision has them: proposal by proposal, class by class. It decides equal scores.
        scores = torch.where(keep, scores, LEFT_OUT).transpose(1, 2).reshape(batch, -1)
        boxes = boxes.transpose(1, 2).reshape(batch, -1, 4)
        limit = heads.detections_per_img
        if classes * count < limit:
            missing = limit - classes * count
            scores = torch.cat([scores, scores.new_full((batch, missing), LEFT_OUT)], dim=1)
            boxes = torch.cat([boxes, boxes.new_zeros(batch, missing, 4)], dim=1)
        scores, at = best(scores, limit)
        found = scores > LEFT_OUT
        boxes = boxes.gather(1, at.unsqueeze(2).expand(-1, -1, 4))
        return (
            torch.where(found.unsqueeze(2), boxes, 0.0),
            torch.where(found, scores, 0.0),
            torch.where(found, at % classes + 1, 0),
            found.sum(dim=1),
        )


def _flattened(level: Tensor, values: int) -> Tensor:
    """[N, A * values, h, w] to [N, h * w * A, values]."""
    batch, channels, rows, columns = level.shape
    return permute_and_flatten(level, batch, channels // values, values, rows, columns)


def _decode(coder: BoxCoder, deltas: Tensor, corners: Tensor) -> Tensor:
    """Boxes [..., 4] of deltas from anchors or proposals, all [..., 4]."""
    return coder.decode_single(deltas.reshape(-1, 4), corners.reshape(-1, 4)).view(deltas.shape)


def _larger(boxes: Tensor, side: float) -> Tensor:
    """Whether both sides are at least `side` px."""
    return ((boxes[..., 2:] - boxes[..., :2]) >= side).all(dim=-1)
