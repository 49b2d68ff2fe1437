"""The gate of an export: its model, its parts and its checkpoint on the same frames."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from detkd.data.dataset import CocoDataset, coco_results
from detkd.deploy.made_frames import made_frame
from detkd.deploy.parity import BOX_PX, SCORE, Found, difference
from detkd.deploy.parts import listening
from detkd.deploy.pictures import Differing
from detkd.deploy.ties import found_by, without_ties
from detkd.evaluation.bootstrap import bootstrap_numbers
from detkd.evaluation.case import Case, build_case
from detkd.evaluation.coco_map import coco_map, coco_numbers
from detkd.models.detector import Detector

MAP = 1e-4  # how far the two mAP may be apart
PART = 1e-4  # how far a part's numbers may be from the checkpoint's, as a share of the greatest one
ENOUGH = 1000  # made frames, without which nothing is proven
BATCH_EVERY = 11  # frames, of which one is also seen in a batch; the kinds of made ones are six
WHICH = ("first", "second", "third")  # of a batch: the frame, and two mirror images
WORST = 20  # frames that are named

Part = Callable[[np.ndarray], list[np.ndarray]]  # a network of one input to all of its outputs


@dataclass
class Gate:
    """What the comparison of all frames gave.

    `parts` say of both how far it was from the checkpoint at most, and on which frame; None of one
    that never ran. `case` and `intervals` are the exported model's detections against the truth,
    and the bootstrap of them.
    """

    images: int = 0
    made: int = 0
    batches: int = 0
    detections: int = 0
    ties: int = 0
    undecided: int = 0
    box_px: float = 0.0
    score: float = 0.0
    parts: dict[str, tuple[float, str] | None] = field(
        default_factory=lambda: {"convolutions": None, "region_head": None}
    )
    failed: list[dict[str, Any]] = field(default_factory=list)
    worst: list[Differing] = field(default_factory=list)  # of the failed, worst first
    map_checkpoint: float | None = None
    map_exported: float | None = None
    case: Case | None = None
    intervals: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """'failed' where anything differs, 'partial' where something was left out, or 'passed'."""
        if self.faults:
            return "failed"
        return "partial" if self.left_out else "passed"

    @property
    def faults(self) -> list[str]:
        """What differs, in words."""
        said = []
        if self.failed:
            first = max(self.failed, key=lambda each: each["alone"])["frame"]
            said.append(f"{len(self.failed)} frames differ, worst {first}")
        for name, worst in self.parts.items():
            if worst and not worst[0] <= PART:
                said.append(f"{name}.onnx differs, most on {worst[1]}")
        if abs((self.map_checkpoint or 0.0) - (self.map_exported or 0.0)) > MAP:
            said.append("mAP differs")
        return said

    @property
    def left_out(self) -> list[str]:
        """What would have to be compared as well before the two are proven equal."""
        said = []
        if not self.images:
            said.append("images of ground truth (--gt)")
        elif self.map_exported is None:
            said.append("mAP (the ground truth has no box)")
        if self.made < ENOUGH:
            said.append(f"{ENOUGH:,} made frames (there were {self.made})")
        said += [
            f"{name}.onnx (no frame got so far)"
            for name, worst in self.parts.items()
            if worst is None
        ]
        return said

    def document(self) -> dict[str, Any]:
        """As parity.json has it; of the frames that differ, the worst ones."""
        tree = {k: v for k, v in vars(self).items() if k not in ("worst", "case", "intervals")}
        tree["failed"] = sorted(self.failed, key=lambda each: -each["alone"])[:WORST]
        tree["parts"] = {
            name: {"gap": worst[0] if math.isfinite(worst[0]) else None, "frame": worst[1]}
            for name, worst in self.parts.items()
            if worst
        }
        told = ("level", "draws", "unit", "groups", "AP")
        known = self.intervals.get("AP")
        return {
            "passed": self.verdict == "passed",
            "verdict": self.verdict,
            "faults": self.faults,
            "left_out": self.left_out,
            "frames_that_differ": len(self.failed),
            **tree,
            "map_interval": {key: self.intervals[key] for key in told} if known else None,
            "limits": {"box_px": BOX_PX, "score": SCORE, "map": MAP, "part": PART},
        }


def compare(
    detector: Detector,
    exported: Callable[[np.ndarray], list[Found]],
    maps: Part,
    head: Part,
    *,
    dataset: CocoDataset | None,
    made_frames: int,
    progress: Callable[[int], object] | None = None,
) -> Gate:
    """Both on each image of the data set, if there is one, and on the first made frames.

    `maps` and `head` are the exported parts (see `Convolutions` and `RegionHead`), which have to
    say what those of the checkpoint say inside it. Every few frames, the exported model also sees
    one together with its mirror images, and each has to be found as if it were alone. `maps` tell a
    tie from a fault as well: a detection on one side only is a tie where the checkpoint shows it,
    too, when its numbers are moved by no more than rounding (see `detkd.deploy.ties`). Such frames
    are counted as undecided. With a data set, also the mAP of both on it, and the exported one's
    intervals.
    """
    gate = Gate()
    detector = detector.cpu().eval()
    results: tuple[list[dict[str, Any]], ...] = ([], [])
    for at, (name, frame, target) in enumerate(_frames(dataset, made_frames, detector.image_size)):
        [theirs] = exported(frame[None])
        ours = _note(gate, detector, name, frame, theirs, maps(frame[None]), head)
        gate.detections += len(ours.scores)
        if at % BATCH_EVERY == 0:
            gate.batches += 1
            batch = np.stack([frame, frame[:, :, ::-1], frame[:, ::-1]])
            own = maps(batch)
            for place, (which, found) in enumerate(zip(WHICH, exported(batch), strict=True)):
                own_maps = [each[place : place + 1] for each in own]
                what = f"{name}, {which} of a batch"
                _note(gate, detector, what, batch[place], found, own_maps, head)
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
        gate.case = build_case(dataset.truth, results[1])
        gate.map_checkpoint = coco_map(dataset.truth, results[0])["coco"]["AP"]
        gate.map_exported = coco_numbers(gate.case)["coco"]["AP"]
        gate.intervals = bootstrap_numbers(gate.case)
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


def _note(
    gate: Gate,
    detector: Detector,
    name: str,
    frame: np.ndarray,
    theirs: Found,
    maps: Sequence[np.ndarray],
    head: Part,
) -> Found:
    """Compare a frame's detections and what the parts say of it; the checkpoint's detections."""
    with listening(detector) as heard:
        ours = found_by(detector, frame)
    _note_part(gate, "convolutions", name, heard.maps, maps)
    if heard.features is not None and len(heard.features):
        _note_part(gate, "region_head", name, heard.answers, head(heard.features.numpy()))
    limits = detector.config
    gap = difference(ours, theirs, score_threshold=limits.score_threshold, limit=limits.detections)
    if gap.alone:
        gap = without_ties(gap, detector, frame, ours, theirs, maps)
        gate.undecided += not gap.alone
    gate.ties += gap.ties
    gate.box_px, gate.score = max(gate.box_px, gap.box_px), max(gate.score, gap.score)
    if gap.alone:
        gate.failed.append({"frame": name, "alone": gap.alone, **asdict(gap)})
        worst = [*gate.worst, Differing(name, frame, ours, theirs, gap)]
        gate.worst = sorted(worst, key=lambda each: -each.gap.alone)[:WORST]
    return ours


def _note_part(
    gate: Gate, name: str, frame: str, ours: Sequence[Tensor], theirs: Sequence[np.ndarray]
) -> None:
    gap = max(_apart(our.numpy(), their) for our, their in zip(ours, theirs, strict=True))
    worst = gate.parts[name]
    if worst is None or gap > worst[0]:
        gate.parts[name] = gap, frame


def _apart(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The greatest distance, as a share of our greatest number if that is above 1."""
    if ours.shape != theirs.shape:
        return math.inf
    gap = float(np.abs(ours - theirs).max() / max(1.0, float(np.abs(ours).max())))
    return math.inf if math.isnan(gap) else gap
