"""A detector as an ONNX file, and such a file as something that detects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkd.deploy.graph import DetectionGraph
from detkd.deploy.nms import onnx_translations
from detkd.deploy.parity import Found
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
            f"the export needs {error.name}, which is not installed: pip install 'detkd[export]'."
        ) from error
    del onnx, onnxscript
    return onnxruntime


def write_onnx(detector: Detector, path: Path) -> None:
    """Write the detector's graph (see `DetectionGraph`) for frames of any size and number."""
    needed()
    side = detector.image_size
    dim = torch.export.Dim
    sides = {2: dim("height", min=2, max=65536), 3: dim("width", min=2, max=65536)}
    with torch.no_grad():
        program = torch.onnx.export(
            DetectionGraph(detector),
            # An example of which no size is special: two frames, sides that 32 does not divide.
            (torch.rand(2, 3, max(2, side - side // 4 - 1), side),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: dim("batch", min=1, max=65536), **sides},),
            custom_translation_table=onnx_translations(),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


class OnnxDetector:
    """An exported model in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        runtime = needed()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, frames: np.ndarray) -> list[Found]:
        """Detections of each of the frames [N, 3, H, W] float32, RGB from 0 to 1."""
        boxes, scores, labels, counts = self.session.run(list(OUTPUTS), {INPUT: frames})
        return [
            Found(box[:count], score[:count], label[:count])
            for box, score, label, count in zip(boxes, scores, labels, counts, strict=True)
        ]
