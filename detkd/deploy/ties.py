"""Where rounding decides, and two right programs may decide differently.

A detector decides: which candidate comes last into a list, which score is above a threshold, which
overlap. Where the two sides of a decision are as near as rounding, neither outcome is wrong. So a
difference is forgiven only if the checkpoint itself shows it, when its numbers are moved by no
more than rounding may move them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import clip_boxes_to_image

from detkd.deploy.operators import best
from detkd.deploy.parity import BOX_PX, Difference, Found, lone
from detkd.deploy.parts import Convolutions
from detkd.models.detector import Detector

SHIFT = 1e-4  # of logits and deltas: it moves a score and a side by less than the gate's limits
DRAWS = 8  # of noise on the RoI head's outputs, and as many on the RPN's, too
EPSILON = torch.finfo(torch.float32).eps
GONE = 10  # times the limits: a detection with nothing so near has gone, and not just moved


def found_by(detector: Detector, frame: np.ndarray) -> Found:
    """The detections of one frame [3, H, W]."""
    with torch.no_grad():
        [found] = detector([torch.from_numpy(frame)])
    return Found(*(found[key].numpy() for key in ("boxes", "scores", "labels")))


def without_ties(
    gap: Difference,
    detector: Detector,
    frame: np.ndarray,
    ours: Found,
    theirs: Found,
    maps: Sequence[np.ndarray],
) -> Difference:
    """The difference with those taken out, and counted as ties, that a moved checkpoint shows.

    `maps` are the exported model's for this frame, as `Convolutions` gives them, each [1, C, h, w].
    One of ours is a tie if a moved checkpoint has lost it; one of theirs if a moved one has it. All
    are, if a moved one finds exactly what the exported model finds: then one of ours need not have
    gone, since an equally good neighbour may lie hardly beside it.
    """
    missing, extra = set(gap.missing), set(gap.extra)
    for moved in moved_answers(detector, frame, maps, ours, theirs):
        unseen = set(lone(theirs, moved).tolist())
        if not unseen and not len(lone(moved, theirs)):
            missing.clear()
        missing -= set(lone(ours, moved, slack=GONE).tolist())
        extra &= unseen
        if not missing and not extra:
            break
    forgiven = gap.alone - len(missing) - len(extra)
    return replace(
        gap,
        missing=tuple(sorted(missing)),
        extra=tuple(sorted(extra)),
        ties=gap.ties + forgiven,
    )


def moved_answers(
    detector: Detector,
    frame: np.ndarray,
    maps: Sequence[np.ndarray],
    our_found: Found,
    theirs: Found,
) -> Iterator[Found]:
    """What the checkpoint finds when its numbers are moved by no more than SHIFT.

    First with the exported model's own features, objectness and deltas in place of torch's, and of
    equally good candidates the first ones taken, as it does. Then in favour of what the exported
    model has found, by what the RoI head says, and then by the objectness of where it comes from,
    too: on a flat frame hundreds of candidates are equal, and noise would hardly ever put the same
    ones first. Then with seeded noise: on what the RoI head says, then on what the RPN
    says, too. Nothing, if the exported model's maps are further from torch's than rounding goes:
    then nothing is a tie.
    """
    with torch.no_grad():
        ours = Convolutions(detector)(torch.from_numpy(frame)[None])
    their_maps = [torch.from_numpy(array) for array in maps]
    for our, their in zip(ours, their_maps, strict=True):
        if not bool((our - their).abs().max() <= SHIFT * max(1.0, float(our.abs().max()))):
            return
    yield _answer(detector, frame, their_maps)
    yield _answer(detector, frame, their_maps, favoured=theirs)
    against = _only(our_found, theirs)
    yield _answer(detector, frame, their_maps, favoured=theirs, against=against)
    for rpn in (False, True):
        for seed in range(DRAWS):
            noise = torch.Generator().manual_seed(seed)
            yield _answer(detector, frame, their_maps, noise, rpn=rpn)


def _answer(
    detector: Detector,
    frame: np.ndarray,
    maps: list[Tensor],
    noise: torch.Generator | None = None,
    *,
    rpn: bool = False,
    favoured: Found | None = None,
    against: Found | None = None,
) -> Found:
    names = list(detector.backbone.neck.features)
    n = len(names)
    levels = dict(zip(names, maps[:n], strict=True))
    said = (maps[n : 2 * n], maps[2 * n : 3 * n])
    if rpn and noise is not None:
        said = tuple([_shaken(each, noise) for each in part] for part in said)  # type: ignore[assignment]

    proposals: list[Tensor] = []

    def seen(_module: Any, given: tuple[Any, ...]) -> None:
        proposals[:] = given[1]

    def moved(_module: Any, _input: Any, output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        if favoured is not None:
            return _favouring(favoured, detector, *output, proposals, frame)
        return output if noise is None else tuple(_shaken(each, noise) for each in output)

    hooks = {
        detector.backbone: lambda *_: levels,
        detector.rpn.head: lambda *_: said,
        detector.roi_heads.box_predictor: moved,
    }
    with ExitStack() as stack:
        for module, hook in hooks.items():
            stack.callback(module.register_forward_hook(hook).remove)
        stack.callback(detector.roi_heads.register_forward_pre_hook(seen).remove)
        stack.enter_context(_first_of_equals(detector))
        if favoured is not None and against is not None:
            stack.enter_context(_leaning(detector, levels, favoured, against))
        return found_by(detector, frame)


def rounding_of(logits: Tensor) -> Tensor:
    """How far rounding may move logits that are put in order by their sigmoids p.

    SHIFT, and what makes p one step of single precision more: next to p = 1 that is much,

        Δz = ε / (p (1 − p))
    """
    slope = logits.double().sigmoid() * (-logits.double()).sigmoid()
    return (SHIFT + EPSILON / slope.clamp(min=EPSILON)).to(logits.dtype)


def _shaken(values: Tensor, noise: torch.Generator) -> Tensor:
    return values + SHIFT * (2 * torch.rand(values.shape, generator=noise) - 1)


def _favouring(
    found: Found,
    detector: Detector,
    logits: Tensor,
    deltas: Tensor,
    proposals: list[Tensor],
    frame: np.ndarray,
) -> tuple[Tensor, Tensor]:
    """The RoI head's outputs, with SHIFT more for the class of each proposal of what was found."""
    if not len(logits):
        return logits, deltas
    before = logits.shape[1] - len(detector.classes)  # columns: the background's, if there is one
    theirs = torch.zeros_like(logits)
    theirs[:, before:] = _sources(found, detector, deltas, proposals, frame.shape[1:])
    return logits + SHIFT * theirs, deltas


def _sources(
    found: Found,
    detector: Detector,
    deltas: Tensor,
    proposals: list[Tensor],
    size: Sequence[int],
) -> Tensor:
    """1 where a proposal [P] becomes a detection that was found, by its class [P, K]; else 0."""
    boxes = detector.roi_heads.box_coder.decode(deltas, proposals)
    boxes = clip_boxes_to_image(boxes, (size[0], size[1]))
    sources = deltas.new_zeros(len(deltas), len(detector.classes))
    for box, label in zip(found.boxes, found.labels, strict=True):
        near = (boxes[:, int(label)] - torch.from_numpy(box)).abs().amax(dim=1) <= BOX_PX
        sources[near, int(label) - 1] = 1
    return sources


def _only(ours: Found, theirs: Found) -> Found:
    """Those of ours that they have not."""
    at = lone(ours, theirs)
    return Found(ours.boxes[at], ours.scores[at], ours.labels[at])


@contextmanager
def _leaning(
    detector: Detector, levels: dict[str, Tensor], favoured: Found, against: Found
) -> Iterator[None]:
    """Inside, the objectness of candidates that become one of `favoured` is a rounding more.

    It is a rounding less of those that become one of `against` alone.
    """
    heads, usual = detector.roi_heads, detector.rpn.filter_proposals

    def leaning(
        proposals: Tensor, objectness: Tensor, shapes: list[tuple[int, int]], counts: list[int]
    ) -> Any:
        boxes = [clip_boxes_to_image(proposals[0], shapes[0])]
        rois = heads.box_head(heads.box_roi_pool(levels, boxes, shapes))
        deltas = heads.box_predictor.forward(rois)[1]  # without the hooks of a call
        good, bad = (
            _sources(found, detector, deltas, boxes, shapes[0]).amax(dim=1)
            for found in (favoured, against)
        )
        logits = objectness.reshape(1, -1)
        moved = logits + rounding_of(logits) * (good - bad * (1 - good))
        return usual(proposals, moved, shapes, counts)

    detector.rpn.filter_proposals = leaning
    try:
        yield
    finally:
        detector.rpn.filter_proposals = usual


@contextmanager
def _first_of_equals(detector: Detector) -> Iterator[None]:
    """Of equally good candidates the RPN takes the first ones; torch's topk takes any."""

    def first(objectness: Tensor, anchors: list[int]) -> Tensor:
        places, offset = [], 0
        for level in objectness.split(anchors, 1):
            places.append(best(level, detector.rpn.pre_nms_top_n())[1] + offset)
            offset += level.shape[1]
        return torch.cat(places, dim=1)

    usual = detector.rpn._get_top_n_idx
    detector.rpn._get_top_n_idx = first
    try:
        yield
    finally:
        detector.rpn._get_top_n_idx = usual
