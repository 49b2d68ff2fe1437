"""A classifier as an ONNX file, and such a file as something that classifies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detkd.deploy.onnx_model import OPSET, needed
from detkd.models.classifier import Classifier

INPUT, OUTPUT = "images", "logits"


class ClassificationGraph(nn.Module):
    """Images [N, 3, S, S], RGB from 0 to 1, to the logits [N, K] of the head; exits do not run."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        network = self.network
        stages = network.backbone((images - network.mean) / network.std)
        return network.head(stages[network.deepest])[1]


def write_onnx_classifier(network: Classifier, path: Path) -> None:
    """Write the classifier's graph, for any number of images of its own size."""
    needed()
    side = network.image_size
    device = next(network.parameters()).device
    with torch.no_grad():
        program = torch.onnx.export(
            ClassificationGraph(network),
            (torch.rand(2, 3, side, side, device=device),),
            dynamo=True,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=65536)},),
            verbose=False,
        )
    assert program is not None
    program.save(str(path), external_data=False)


class OnnxClassifier:
    """An exported classifier in ONNX Runtime, on the CPU; `threads` 0 takes all cores."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        runtime = needed()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        self.session = runtime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits [N, K] of images [N, 3, S, S] float32, RGB from 0 to 1."""
        [logits] = self.session.run([OUTPUT], {INPUT: images})
        return logits
