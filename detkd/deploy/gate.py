"""The gate of an export: its model and its checkpoint on the same frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from detkd.data.dataset import CocoDataset, coco_results
from detkd.deploy.made_frames import made_frame
from detkd.deploy.parity import BOX_PX, SCORE, Found, difference
from detkd.deploy.pictures import Differing
from detkd.deploy.ties import Maps, found_by, without_ties
from detkd.evaluation.bootstrap import bootstrap_map
from detkd.evaluation.coco_map import coco_map
from detkd.models.detector import Detector

MAP = 1e-4  # how far the two mAP may be apart
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
    worst: list[Differing] = field(default_factory=list)  # of the failed, worst first
    map_checkpoint: float | None = None
    map_exported: float | None = None
    map_interval: dict[str, Any] | None = None  # of the exported model's, over samples or images

    @property
    def passed(self) -> bool:
        return not self.failed and self.map_equal

    @property
    def map_equal(self) -> bool:
        return abs((self.map_checkpoint or 0.0) - (self.map_exported or 0.0)) <= MAP

    def document(self) -> dict[str, Any]:
        """As parity.json has it; of the frames that differ, the worst ones."""
        tree = {key: value for key, value in vars(self).items() if key != "worst"}
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
    maps: Maps,
    *,
    dataset: CocoDataset | None,
    made_frames: int,
    progress: Callable[[int], object] | None = None,
) -> Gate:
    """Both on each image of the data set, if there is one, and on the first made frames.

    `maps` are the exported model's convolutions alone (see `Convolutions`); they tell a tie from a
    fault: a detection on one side only is a tie where the checkpoint shows it, too, when its
    numbers are moved by no more than rounding (see `detkd.deploy.ties`). Such frames are counted
    as undecided. With a data set, also the mAP of both on it, and the exported one's interval.
    """
    gate = Gate()
    detector = detector.cpu().eval()
    results: tuple[list[dict[str, Any]], ...] = ([], [])
    for name, frame, target in _frames(dataset, made_frames, detector.image_size):
        ours, theirs = found_by(detector, frame), exported(frame[None])[0]
        gap = difference(
            ours,
            theirs,
            score_threshold=detector.config.score_threshold,
            limit=detector.config.detections,
        )
        if gap.alone:
            gap = without_ties(gap, detector, frame, ours, theirs, maps)
            gate.undecided += not gap.alone
        _note(gate, Differing(name, frame, ours, theirs, gap))
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
        drawn = bootstrap_map(dataset.truth, results[1])
        told = ("level", "draws", "unit", "groups", "AP")
        gate.map_interval = {key: drawn[key] for key in told} if drawn["AP"] else None
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


def _note(gate: Gate, frame: Differing) -> None:
    gap = frame.gap
    gate.detections += len(frame.checkpoint.scores)
    gate.ties += gap.ties
    gate.box_px, gate.score = max(gate.box_px, gap.box_px), max(gate.score, gap.score)
    if gap.alone:
        gate.failed.append({"frame": frame.name, "alone": gap.alone, **asdict(gap)})
        gate.worst = sorted([*gate.worst, frame], key=lambda each: -each.gap.alone)[:WORST]
