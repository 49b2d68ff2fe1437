"""A detector as an ONNX file, and such a file as something that detects."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detkd.deploy.graph import DetectionGraph
from detkd.deploy.operators import onnx_translations
from detkd.deploy.parity import Found
from detkd.deploy.parts import Convolutions, RegionHead
from detkd.errors import UserError
from detkd.models.detector import Detector

OPSET = 18
INPUT = "frames"
OUTPUTS = ("boxes", "scores", "labels", "count")


def needed() -> Any:
    """onnxruntime, where all of the export's libraries are there.

    Raises:
        UserError: one of them is not.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript
    except ImportError as error:
        raise UserError(
            f"the export needs {error.name}, which is not installed: "
            "pip install '.[export]' in detkd's checkout."
        ) from error
    del onnx, onnxscript
    return onnxruntime


def write_onnx(detector: Detector, path: Path) -> None:
    """Write the detector's graph (see `DetectionGraph`) for frames of any size and number."""
    write_graph(DetectionGraph(detector), *_any_frames(detector), path, INPUT, OUTPUTS)


def write_parts(detector: Detector, folder: Path) -> None:
    """Write convolutions.onnx and region_head.onnx (see `detkd.deploy.parts`) into the folder."""
    folder.mkdir(exist_ok=True)
    convolutions, head = Convolutions(detector), RegionHead(detector)
    path = folder / "convolutions.onnx"
    write_graph(convolutions, *_any_frames(detector), path, INPUT, convolutions.names)
    pool = detector.roi_heads.box_roi_pool
    features = torch.rand(3, pool.channels, *pool.output_size)
    many = {0: torch.export.Dim("rois", min=1, max=2**20)}
    write_graph(head, features, many, folder / "region_head.onnx", "features", head.names)


def _any_frames(detector: Detector) -> tuple[torch.Tensor, dict[int, Any]]:
    """An example of which no size is special (two frames, sides that 32 does not divide)."""
    side, dim = detector.image_size, torch.export.Dim
    example = torch.rand(2, 3, max(2, side - side // 4 - 1), side)
    sides = {2: dim("height", min=2, max=65536), 3: dim("width", min=2, max=65536)}
    return example, {0: dim("batch", min=1, max=65536), **sides}


def write_graph(
    module: nn.Module,
    example: torch.Tensor,
    dynamic: dict[int, Any],
    path: Path,
    input_name: str,
    outputs: Sequence[str],
) -> None:
    """Write a module of one input; `dynamic` names its axes that may have other lengths."""
    needed()
    with torch.no_grad():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[input_name],
            output_names=list(outputs),
            dynamic_shapes=(dynamic,),
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


class OnnxNetwork:
    """An ONNX file of one input in ONNX Runtime, on the CPU; 0 threads are all."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        runtime = needed()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.input = self.session.get_inputs()[0].name

    def __call__(self, array: np.ndarray) -> list[np.ndarray]:
        """All outputs, in their order."""
        return self.session.run(None, {self.input: array})


class OnnxDetector:
    """An exported model in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self.network = OnnxNetwork(path, threads=threads)

    def __call__(self, frames: np.ndarray) -> list[Found]:
        """Detections of each of the frames [N, 3, H, W] float32, RGB from 0 to 1."""
        return [
            Found(box[:count], score[:count], label[:count])
            for box, score, label, count in zip(*self.network(frames), strict=True)
        ]
