"""Operators of fixed output shapes for what has none, in torch and in ONNX.

How many boxes survive, or belong to a level, is known only when it has run, and the exporter
cannot follow that. Each operator here is a function in torch, a shape for the exporter, and the
ONNX that is written for it.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms, roi_align

LEFT_OUT = -1.0  # the score of a box that takes no part
_FLOOR = -0.5  # between that and every probability


@torch.library.custom_op("detkd::nms_mask", mutates_args=())
def nms_mask(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Which boxes stay [B, M], of boxes [B, M, 4] xyxy and scores [B, M], each row apart.

    The best one stays and removes those that overlap it by more than `threshold`, and so on. A
    box of the score `LEFT_OUT` does not stay and removes none.
    """
    keep = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(len(boxes)):
        chosen = torch.where(scores[row] > _FLOOR)[0]
        keep[row, chosen[nms(boxes[row, chosen], scores[row, chosen], threshold)]] = True
    return keep


@nms_mask.register_fake
def _(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    return torch.empty_like(scores, dtype=torch.bool)


@torch.library.custom_op("detkd::best", mutates_args=())
def best(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The highest scores [N, count] of each row, best first, and their places.

    Of equal ones the first comes first, which torch's topk does not promise and ONNX's does.
    """
    ordered, places = scores.sort(dim=1, descending=True, stable=True)
    return ordered[:, :count].clone(), places[:, :count].clone()


@best.register_fake
def _(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    values = scores.new_empty(scores.shape[0], count)
    return values, torch.empty_like(values, dtype=torch.int64)


@torch.library.custom_op(
    "detkd::pooled",
    mutates_args=(),
    schema="(Tensor[] levels, Tensor rois, Tensor places, float[] scales, int cells, int points, "
    "bool aligned) -> Tensor",
)
def pooled(
    levels: list[Tensor],
    rois: Tensor,
    places: Tensor,
    scales: list[float],
    cells: int,
    points: int,
    aligned: bool,
) -> Tensor:
    """RoI features [R, C, cells, cells] of rois [R, 5], each from the level of its place [R].

    A RoI is the number of its frame, then xyxy in px; levels are [N, C, h, w], `scales` are one
    over their strides, `points` a side of a cell are sampled. `aligned` RoIs are shifted by half
    a pixel and as small as they are; others are at least one cell of the map wide.
    """
    out = rois.new_zeros(len(rois), levels[0].shape[1], cells, cells)
    for at, (level, scale) in enumerate(zip(levels, scales, strict=True)):
        here = torch.where(places == at)[0]
        out[here] = roi_align(level, rois[here], cells, scale, points, aligned)
    return out


@pooled.register_fake
def _(
    levels: list[Tensor],
    rois: Tensor,
    places: Tensor,
    scales: list[float],
    cells: int,
    points: int,
    aligned: bool,
) -> Tensor:
    return rois.new_empty(rois.shape[0], levels[0].shape[1], cells, cells)


def onnx_translations() -> dict[Any, Any]:
    """What the exporter writes for each of them.

    ONNX reads a box's corners as y, x, y, x; overlaps are the same with the axes exchanged.
    """
    import onnxscript

    op: Any = onnxscript.opset18  # its stubs know no attributes given as lists

    def ints(*values: int):
        return op.Constant(value_ints=list(values))

    def mask(boxes, scores, threshold: float):
        shape = op.Shape(scores)
        chosen = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, ints(1)),
            op.Gather(shape, ints(1)),
            op.Constant(value_floats=[threshold]),
            op.Constant(value_floats=[_FLOOR]),
        )
        rows = op.Gather(chosen, ints(0, 2), axis=1)
        ones = op.Expand(op.Constant(value_floats=[1.0]), op.Slice(op.Shape(rows), [0], [1]))
        empty = op.Expand(op.Constant(value_float=0.0), shape)
        return op.Cast(op.ScatterND(empty, rows, ones), to=9)

    def highest(scores, count: int):
        return op.TopK(scores, ints(count), axis=1, largest=1, sorted=1)

    def align(levels, rois, places, scales, cells: int, points: int, aligned: bool):
        frames = op.Cast(op.Squeeze(op.Slice(rois, ints(0), ints(1), ints(1)), ints(1)), to=7)
        boxes = op.Slice(rois, ints(1), ints(5), ints(1))

        def of_level(level, boxes, frames, scale):
            return op.RoiAlign(
                level,
                boxes,
                frames,
                coordinate_transformation_mode="half_pixel" if aligned else "output_half_pixel",
                mode="avg",
                output_height=cells,
                output_width=cells,
                sampling_ratio=points,
                spatial_scale=float(scale),
            )

        if len(levels) == 1:
            return of_level(levels[0], boxes, frames, scales[0])
        count = op.Slice(op.Shape(rois), ints(0), ints(1))
        channels = op.Slice(op.Shape(levels[0]), ints(1), ints(2))
        shape = op.Concat(count, channels, ints(cells, cells), axis=0)
        out = op.Expand(op.Constant(value_float=0.0), shape)
        for at, (level, scale) in enumerate(zip(levels, scales, strict=True)):
            equal = op.Equal(places, op.Constant(value_int=at))
            here = op.Transpose(op.NonZero(equal), perm=[1, 0])
            chosen = op.Squeeze(here, ints(1))
            found = of_level(level, op.Gather(boxes, chosen), op.Gather(frames, chosen), scale)
            out = op.ScatterND(out, here, found)
        return out

    ours = torch.ops.detkd
    return {
        ours.nms_mask.default: mask,
        ours.best.default: highest,
        ours.pooled.default: align,
    }
