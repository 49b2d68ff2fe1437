"""Faster forms of an exported model, kept only where they are faster and find nearly the same.

INT8 (ONNX Runtime's static quantisation), FP16, and OpenVINO are each made of model.onnx, run on
the same images in turns with it, and judged on the same ground truth. What is slower, or loses more
mAP than allowed, is refused and told.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkd.data.dataset import CocoDataset, coco_results
from detkd.deploy.onnx_model import INPUT, OnnxNetwork
from detkd.deploy.runner import Runtime, open_openvino
from detkd.errors import DataError, UserError
from detkd.evaluation.coco_map import coco_map

CALIBRATION = 100  # images that the ranges of activations are measured on
JUDGED = 10  # images, without which a mAP says nothing
TIMED = 60  # images that each form is timed on
FASTER = 0.95  # share of model.onnx's time that a form may take at most
# Their inputs are coordinates and scores: half precision would move boxes and exchange ranks.
IN_SINGLE = ("NonMaxSuppression", "RoiAlign", "TopK", "ScatterND", "Exp", "Range", "Resize")


@dataclass(frozen=True)
class Measured:
    """A form of the model: its median time against model.onnx's, its mAP, and what came of it.

    `images` is the number of those that it was judged on.
    """

    name: str
    file: str
    runtime: str
    ms: float
    ratio: float
    map: float
    loss: float
    images: int
    kept: bool
    why: str
    size: tuple[int, int] | None = None  # height and width of the frames, if only these pass


def needed(names: Sequence[str]) -> None:
    """Refuse forms whose library is not installed, before anything is written.

    Raises:
        UserError: OpenVINO is wanted and is not there.
    """
    if "openvino" in names:
        _openvino()


def try_variants(
    folder: Path,
    names: Sequence[str],
    dataset: CocoDataset,
    *,
    calibration: CocoDataset | None,
    frame: tuple[int, int] | None,
    most_loss: float,
) -> list[Measured]:
    """Make each form in `folder`/variants, measure it, and remove it again if it is refused.

    `frame` [height, width] in px, of the resized frames, makes OpenVINO's model one for these
    alone: one of any size prepares itself anew whenever the size changes.

    Raises:
        DataError: no image is of the size that was asked for.
        UserError: a library is missing.
    """
    place = folder / "variants"
    place.mkdir()
    plain = OnnxNetwork(folder / "model.onnx", threads=1)
    measured = []
    for name in names:
        path = place / {"int8": "int8.onnx", "fp16": "fp16.onnx", "openvino": "openvino.xml"}[name]
        size = frame if name == "openvino" else None
        if name == "int8":
            assert calibration is not None
            write_int8(folder / "model.onnx", path, calibration)
        elif name == "fp16":
            write_fp16(folder / "model.onnx", path)
        else:
            write_openvino(folder / "model.onnx", path, size)
        run = open_openvino(path, 1) if name == "openvino" else OnnxNetwork(path, threads=1)
        entry = _measure(name, path, run, plain, dataset, size, most_loss)
        measured.append(entry)
        if not entry.kept:
            for part in place.glob(f"{path.stem}.*"):
                part.unlink()
    if not any(place.iterdir()):
        place.rmdir()
    return measured


def _measure(
    name: str,
    path: Path,
    run: Runtime,
    plain: Runtime,
    dataset: CocoDataset,
    size: tuple[int, int] | None,
    most_loss: float,
) -> Measured:
    """One thread each, image by image in turns; mAP of both on the images that pass."""
    times: tuple[list[float], list[float]] = ([], [])
    results: tuple[list[dict[str, Any]], ...] = ([], [])
    used = []
    for at in range(len(dataset)):
        image, target = dataset[at]
        if size is not None and tuple(image.shape[-2:]) != size:
            continue
        used.append(dataset.truth["images"][at])
        for which, network in enumerate((plain, run)):
            begun = time.perf_counter()
            boxes, scores, labels, counts = network(image.numpy()[None])
            times[which].append(time.perf_counter() - begun)
            count = int(counts[0])
            parts = zip(("boxes", "scores", "labels"), (boxes, scores, labels), strict=True)
            found = {key: torch.from_numpy(part[0, :count].copy()) for key, part in parts}
            results[which].extend(coco_results(image, target, found, dataset.category_ids))
    if not used:
        raise DataError(
            f"--frame: none of the images of {dataset.path} becomes {size[1]}x{size[0]} px "  # type: ignore[index]
            "when it is resized; give the size of the camera's frames, WIDTHxHEIGHT."
        )
    before, after = (coco_map(_truth_of(dataset, used), r)["coco"]["AP"] or 0.0 for r in results)
    plain_ms, ms = (1000 * statistics.median(part[-TIMED:]) for part in times)
    ratio, loss = ms / plain_ms, before - after
    kept, why = verdict(ratio, loss, most_loss, len(used))
    return Measured(
        name,
        f"variants/{path.name}",
        "openvino" if name == "openvino" else "onnxruntime",
        ms,
        ratio,
        after,
        loss,
        len(used),
        kept,
        why,
        size,
    )


def verdict(ratio: float, loss: float, most_loss: float, images: int) -> tuple[bool, str]:
    """Whether a form stays that was judged on so many images, and what is said of it."""
    slow, poor = ratio > FASTER, loss > most_loss
    reasons = [f"takes {ratio:.2f} times as long as model.onnx"] if slow else []
    reasons += [f"loses {loss:.4f} mAP, and {most_loss:g} is allowed"] if poor else []
    few = images < JUDGED
    reasons += [f"could be judged on {images} images alone, and {JUDGED} are needed"] if few else []
    if reasons:
        return False, " and ".join(reasons)
    return True, f"takes {ratio:.2f} of the time and loses {loss:.4f} mAP on {images} images"


def _truth_of(dataset: CocoDataset, images: list[dict[str, Any]]) -> dict[str, Any]:
    ids = {image["id"] for image in images}
    boxes = [box for box in dataset.truth["annotations"] if box["image_id"] in ids]
    return {**dataset.truth, "images": images, "annotations": boxes}


def described(measured: Sequence[Measured]) -> dict[str, Any]:
    """The kept ones, as detkd.json has them."""
    return {
        each.name: {"file": each.file, "runtime": each.runtime, "size": each.size}
        for each in measured
        if each.kept
    }


def documented(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """All of them, as parity.json has them."""
    return [asdict(each) for each in measured]


def write_int8(model: Path, path: Path, calibration: CocoDataset) -> None:
    """Weights by channel and activations as 8-bit integers, for convolutions and linear layers.

    Ranges are those seen on up to 100 images, spread over all; they should be training images.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Frames(CalibrationDataReader):
        def __init__(self, frames: Iterator[np.ndarray]) -> None:
            self.frames = frames

        def get_next(self) -> dict[str, np.ndarray] | None:
            frame = next(self.frames, None)
            return None if frame is None else {INPUT: frame}

    frames = (calibration[at][0].numpy()[None] for at in spread(len(calibration), CALIBRATION))
    prepared = path.with_suffix(".prepared.onnx")
    logging.getLogger().setLevel(logging.ERROR)  # it advises what was done just before
    try:
        # Symbolic shapes: its inference does not know how many boxes survive.
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(path),
            Frames(frames),
            per_channel=True,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    finally:
        prepared.unlink(missing_ok=True)


def spread(length: int, most: int) -> list[int]:
    """Places of so many of `length` things at most, evenly from the first to the last."""
    count = min(length, most)
    return [at * (length - 1) // max(1, count - 1) for at in range(count)]


def write_fp16(model: Path, path: Path) -> None:
    """Weights and activations in half precision; coordinates and ranks stay in single."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    half = convert_float_to_float16(
        onnx.load(str(model)), keep_io_types=True, op_block_list=list(IN_SINGLE)
    )
    onnx.save(half, str(path))


def write_openvino(model: Path, path: Path, size: tuple[int, int] | None) -> None:
    """OpenVINO's own files (.xml and .bin), for frames of any size or of one.

    Raises:
        UserError: OpenVINO is not installed.
    """
    openvino = _openvino()
    network = openvino.Core().read_model(str(model))
    if size is not None:
        network.reshape([1, 3, *size])
    openvino.save_model(network, str(path), compress_to_fp16=False)


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise UserError(
            "--to openvino: OpenVINO is not installed: pip install openvino."
        ) from error
    return openvino
