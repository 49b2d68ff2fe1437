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
from detkd.deploy.onnx_model import needed
from detkd.errors import CheckpointError
from detkd.evaluation.decisions import Decisions, decisions_in
from detkd.files import write_json
from detkd.models.classifier import Classifier
from detkd.pixels import Levels, levels_of

MOST = 1e-4  # by which a logit may differ, or this share of it


@dataclass(frozen=True)
class ExportedClassifier:
    """What an exported folder holds; `network` gives logits [N, K] of images [N, 3, S, S]."""

    network: OnnxClassifier
    classes: tuple[str, ...]
    image_size: int
    levels: Levels | None
    decisions: Decisions | None


def export_classifier(
    network: Classifier, checkpoint: dict[str, Any], folder: Path, *, made: int
) -> dict[str, Any]:
    """Write model.onnx, detkd.json and parity.json into `folder`; what parity.json says.

    Both are compared on so many made images. The graph ends with the head: exits are left out.
    """
    write_onnx_classifier(network, folder / "model.onnx")
    mean, std = network.mean.flatten().tolist(), network.std.flatten().tolist()
    write_json(
        folder / "detkd.json",
        {
            **described(network, network.levels, INPUT, [OUTPUT], mean, std),
            "network": network.kind,
            "decisions": checkpoint.get("decisions"),
            "training": {"config": checkpoint["config"]},
        },
    )
    parity = _compare(network, OnnxClassifier(folder / "model.onnx"), made)
    write_json(folder / "parity.json", parity)
    return parity


@torch.no_grad()
def _compare(network: Classifier, exported: OnnxClassifier, made: int) -> dict[str, Any]:
    """The greatest difference of a logit on made images, one at a time and in pairs."""
    worst, passed, size = 0.0, True, network.image_size
    for at in range(made):
        images = np.stack([_image(at + other, size) for other in range(1 + at % 2)])
        ours = network(torch.from_numpy(images))
        said = np.stack([each["logits"].numpy() for each in ours])
        apart = np.abs(exported(images) - said)
        worst = max(worst, float(apart.max()))
        passed &= bool((apart <= MOST * np.maximum(1, np.abs(said))).all())
    return {"images": made, "logit": worst, "allowed": MOST, "passed": passed}


def _image(at: int, size: int) -> np.ndarray:
    frame = (made_frame(at, size)[1].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    return square(frame).transpose(2, 0, 1).astype(np.float32) / 255


def read_exported(folder: Path, *, threads: int = 0) -> ExportedClassifier:
    """The classifier of an exported folder.

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
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be understood ({error}); export again.") from error
    needed()
    try:
        network = OnnxClassifier(folder / "model.onnx", threads=threads)
    except Exception as error:  # ONNX Runtime has many of its own
        raise CheckpointError(
            f"{folder}/model.onnx: is missing, or no intact ONNX file; export again."
        ) from error
    levels = levels_of({"detkd": said})
    return ExportedClassifier(network, classes, size, levels, decisions_in(said, path))
