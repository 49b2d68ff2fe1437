"""Greedy non-maximum suppression with an output of fixed size, in torch and in ONNX.

torchvision's gives the indices that survive: how many is known only when it has run, and the
exporter cannot follow that. Ours gives a mask of the input's own shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchvision.ops import nms

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


def onnx_translations() -> dict[Any, Any]:
    """What the exporter writes for `nms_mask`, and for a stable sort, which it does not know.

    The mask is made of the indices that NonMaxSuppression gives.

    ONNX reads a box's corners as y, x, y, x; overlaps are the same with the axes exchanged.
    """
    import onnxscript

    op: Any = onnxscript.opset18  # its stubs know no attributes given as lists

    def mask(boxes, scores, threshold: float):
        shape = op.Shape(scores)
        chosen = op.NonMaxSuppression(
            boxes,
            op.Unsqueeze(scores, op.Constant(value_ints=[1])),
            op.Gather(shape, op.Constant(value_ints=[1])),
            op.Constant(value_floats=[threshold]),
            op.Constant(value_floats=[_FLOOR]),
        )
        places = op.Gather(chosen, op.Constant(value_ints=[0, 2]), axis=1)
        ones = op.Expand(op.Constant(value_floats=[1.0]), op.Slice(op.Shape(places), [0], [1]))
        empty = op.Expand(op.Constant(value_float=0.0), shape)
        return op.Cast(op.ScatterND(empty, places, ones), to=9)

    def sort(values, stable: bool = True, dim: int = -1, descending: bool = False):
        """TopK of all, which puts the first of equal ones first: only along rows, from the top."""
        assert descending and dim == 1
        length = op.Gather(op.Shape(values), op.Constant(value_ints=[1]))
        return op.TopK(values, length, axis=1, largest=1, sorted=1)

    return {torch.ops.detkd.nms_mask.default: mask, torch.ops.aten.sort.stable: sort}
