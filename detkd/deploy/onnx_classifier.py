"""A classifier as an ONNX file, and such a file as something that classifies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detkd.deploy.onnx_model import OnnxNetwork, write_graph
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
    side = network.image_size
    device = next(network.parameters()).device
    images = torch.rand(2, 3, side, side, device=device)
    many = {0: torch.export.Dim("batch", min=1, max=65536)}
    write_graph(ClassificationGraph(network), images, many, path, INPUT, [OUTPUT])


class OnnxClassifier:
    """An exported classifier in ONNX Runtime, on the CPU; `threads` 0 takes all cores."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self.network = OnnxNetwork(path, threads=threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits [N, K] of images [N, 3, S, S] float32, RGB from 0 to 1."""
        [logits] = self.network(images)
        return logits
