"""The folder of an exported classifier: written with proof of its logits, and read again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkd.coco_json import read_json
from detkd.data.class_dataset import square
from detkd.deploy.description import described
from detkd.deploy.made_frames import made_frame
from detkd.deploy.onnx_classifier import INPUT, OUTPUT, OnnxClassifier, write_onnx_classifier
from detkd.deploy.onnx_exits import OnnxExits, write_onnx_exits
from detkd.deploy.onnx_model import needed
from detkd.errors import CheckpointError
from detkd.evaluation.decisions import Decisions, decisions_in
from detkd.files import write_json
from detkd.models.backbones import STRIDES
from detkd.models.classifier import Classifier
from detkd.models.early_exit import LAST
from detkd.pixels import Levels, levels_of

MOST = 1e-4  # by which a logit may differ, or this share of it


@dataclass(frozen=True)
class ExportedClassifier:
    """What an exported folder holds; `network` gives logits [N, K] of images [N, 3, S, S].

    `exits` are there if they were asked for, and the network had some at which it can stop.
    """

    network: OnnxClassifier
    classes: tuple[str, ...]
    image_size: int
    levels: Levels | None
    decisions: Decisions | None
    exits: OnnxExits | None = None


def export_classifier(
    network: Classifier, checkpoint: dict[str, Any], folder: Path, *, made: int
) -> dict[str, Any]:
    """Write model.onnx, detkd.json and parity.json into `folder`; what parity.json says.

    Both are compared on so many made images. The graph ends with the head; where the network can
    stop at exits, it is in exits/ as well, cut at each of them.
    """
    write_onnx_classifier(network, folder / "model.onnx")
    exits = write_onnx_exits(network, folder) if network.can_stop else []
    mean, std = network.mean.flatten().tolist(), network.std.flatten().tolist()
    write_json(
        folder / "detkd.json",
        {
            **described(network, network.levels, INPUT, [OUTPUT], mean, std),
            "network": network.kind,
            "exits": exits,
            "decisions": checkpoint.get("decisions"),
            "training": {"config": checkpoint["config"]},
        },
    )
    parity = _compare(
        network,
        OnnxClassifier(folder / "model.onnx"),
        OnnxExits(folder, exits) if exits else None,
        made,
    )
    write_json(folder / "parity.json", parity)
    return parity


@torch.no_grad()
def _compare(
    network: Classifier, exported: OnnxClassifier, exits: OnnxExits | None, made: int
) -> dict[str, Any]:
    """The greatest difference of a logit on made images, one at a time and in pairs."""
    worst, passed, size = 0.0, True, network.image_size
    for at in range(made):
        images = np.stack([_image(at + other, size) for other in range(1 + at % 2)])
        ours = network(torch.from_numpy(images))
        said = [(exported(images), torch.stack([each["logits"] for each in ours]))]
        if exits:
            by_exit = torch.stack([each["exits"] for each in ours], 1)  # [E, N, K]
            said += zip((logits for _, logits in exits(images)), by_exit, strict=True)
        for theirs, own in said:
            apart = np.abs(theirs - own.numpy())
            worst = max(worst, float(apart.max()))
            passed &= bool((apart <= MOST * np.maximum(1, np.abs(own.numpy()))).all())
    return {"images": made, "logit": worst, "allowed": MOST, "passed": passed}


def _image(at: int, size: int) -> np.ndarray:
    frame = (made_frame(at, size)[1].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return square(frame).transpose(2, 0, 1).astype(np.float32) / 255


def read_exported(folder: Path, *, exits: bool = False, threads: int = 0) -> ExportedClassifier:
    """The classifier of an exported folder, with its `exits` if they are asked for.

    Raises:
        DataError: no such folder.
        CheckpointError: it holds something else.
    """
    path = folder / "detkd.json"
    said = read_json(path, "name a folder that 'detkd export' wrote")
    if not isinstance(said, dict) or said.get("network") != Classifier.kind:
        raise CheckpointError(
            f"{folder}: holds no exported classifier; 'detkd predict' takes exported detectors."
        )
    try:
        classes, size = tuple(map(str, said["classes"])), int(said["image_size"])
        names = list(map(str, said.get("exits", []))) if exits else []
        if names and names != [*(name for name in STRIDES if name in names), LAST]:
            raise ValueError(f"exits {names}")  # which become paths
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be understood ({error}); export again.") from error
    needed()
    try:
        network = OnnxClassifier(folder / "model.onnx", threads=threads)
        parts = OnnxExits(folder, names, threads=threads) if names else None
    except Exception as error:  # ONNX Runtime has many of its own
        what = "model.onnx, or a file of exits/," if names else "model.onnx:"
        raise CheckpointError(
            f"{folder}/{what} is missing, or no intact ONNX file; export again."
        ) from error
    levels = levels_of({"detkd": said})
    return ExportedClassifier(network, classes, size, levels, decisions_in(said, path), parts)
