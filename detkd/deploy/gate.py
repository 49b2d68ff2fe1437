"""The gate of an export: its model and its checkpoint on the same frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from detkd.data.dataset import CocoDataset, coco_results
from detkd.deploy.made_frames import made_frame
from detkd.deploy.parity import BOX_PX, SCORE, Difference, Found, difference
from detkd.evaluation.coco_map import coco_map
from detkd.models.detector import Detector

MAP = 1e-4  # how far the two mAP may be apart
SAME_LOGIT = 1e-5  # objectness logits that rounding may exchange
WORST = 20  # frames that are named


@dataclass
class Gate:
    """What the comparison of all frames gave."""

    images: int = 0
    made: int = 0
    detections: int = 0
    ties: int = 0
    undecided: int = 0
    box_px: float = 0.0
    score: float = 0.0
    failed: list[dict[str, Any]] = field(default_factory=list)
    map_checkpoint: float | None = None
    map_exported: float | None = None

    @property
    def passed(self) -> bool:
        return not self.failed and self.map_equal

    @property
    def map_equal(self) -> bool:
        return abs((self.map_checkpoint or 0.0) - (self.map_exported or 0.0)) <= MAP

    def document(self) -> dict[str, Any]:
        """As parity.json has it; of the frames that differ, the worst ones."""
        tree = asdict(self)
        tree["failed"] = sorted(self.failed, key=lambda each: -each["alone"])[:WORST]
        return {
            "passed": self.passed,
            "frames_that_differ": len(self.failed),
            **tree,
            "limits": {"box_px": BOX_PX, "score": SCORE, "map": MAP},
        }


def compare(
    detector: Detector,
    exported: Callable[[np.ndarray], list[Found]],
    *,
    dataset: CocoDataset | None,
    made_frames: int,
    progress: Callable[[int], object] | None = None,
) -> Gate:
    """Both on each image of the data set, if there is one, and on the first made frames.

    With a data set, also the mAP of both on it. Where two of the best anchors of a level are
    equally good (of a frame of one colour, all are), rounding decides which is proposed first:
    if something is found on one side only there, the frame is counted as undecided, and it as ties.
    """
    gate = Gate()
    checkpoint = _Checkpoint(detector)
    results: tuple[list[dict[str, Any]], ...] = ([], [])
    for name, frame, target in _frames(dataset, made_frames, detector.image_size):
        ours, theirs = checkpoint(frame), exported(frame[None])[0]
        gap = difference(
            ours,
            theirs,
            score_threshold=detector.config.score_threshold,
            limit=detector.config.detections,
        )
        if gap.alone and checkpoint.undecided():
            gap = replace(gap, alone=0, ties=gap.ties + gap.alone)
            gate.undecided += 1
        _note(gate, name, gap, len(ours.scores))
        if target is None:
            gate.made += 1
        else:
            assert dataset is not None
            gate.images += 1
            for found, kept in zip((ours, theirs), results, strict=True):
                tensors = {key: torch.from_numpy(value) for key, value in vars(found).items()}
                image = torch.from_numpy(frame)
                kept += coco_results(image, target, tensors, dataset.category_ids)
        if progress:
            progress(1)
    if dataset is not None:
        gate.map_checkpoint, gate.map_exported = (
            coco_map(dataset.truth, found)["coco"]["AP"] for found in results
        )
    return gate


def _frames(
    dataset: CocoDataset | None, made_frames: int, image_size: int
) -> Iterator[tuple[str, np.ndarray, dict[str, torch.Tensor] | None]]:
    for at in range(len(dataset) if dataset is not None else 0):
        assert dataset is not None
        image, target = dataset[at]
        yield dataset.truth["images"][at]["file_name"], image.numpy(), target
    for at in range(made_frames):
        kind, frame = made_frame(at, image_size)
        yield f"made frame {at} ({kind}, {frame.shape[2]}x{frame.shape[1]})", frame, None


class _Checkpoint:
    """The detector of the checkpoint, and what its RPN said of the last frame."""

    def __init__(self, detector: Detector) -> None:
        self.detector = detector.cpu().eval()
        self.objectness: list[torch.Tensor] = []
        self.size: tuple[int, ...] = ()

    @torch.no_grad()
    def __call__(self, frame: np.ndarray) -> Found:
        self.size = frame.shape[1:]
        hook = self.detector.rpn.head.register_forward_hook(self._keep)
        try:
            [found] = self.detector([torch.from_numpy(frame)])
        finally:
            hook.remove()
        return Found(*(found[key].numpy() for key in ("boxes", "scores", "labels")))

    def _keep(self, _: Any, __: Any, output: tuple[list[torch.Tensor], list[torch.Tensor]]) -> None:
        self.objectness = output[0]

    def undecided(self) -> bool:
        """Whether two of a level's best logits, with the first left out, are as good as equal.

        Cells in the padding do not count: they all look alike, and their boxes are dropped.
        """
        best = self.detector.rpn.pre_nms_top_n() + 1
        multiple = self.detector.transform.size_divisible
        for level in self.objectness:
            rows, columns = (
                math.ceil(side * cells / (math.ceil(side / multiple) * multiple))
                for side, cells in zip(self.size, level.shape[-2:], strict=True)
            )
            logits = level[..., :rows, :columns].flatten().sort(descending=True).values[:best]
            if bool((logits[:-1] - logits[1:] <= SAME_LOGIT).any()):
                return True
        return False


def _note(gate: Gate, name: str, gap: Difference, detections: int) -> None:
    gate.detections += detections
    gate.ties += gap.ties
    gate.box_px, gate.score = max(gate.box_px, gap.box_px), max(gate.score, gap.score)
    if not gap.equal:
        gate.failed.append({"frame": name, **asdict(gap)})
