"""A classifier as an ONNX file, and such a file as something that classifies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
        stages = network.backbone(network.batch(images))
        return network.head(stages[network.deepest])[1]


def write_onnx_classifier(network: Classifier, path: Path) -> None:
    """Write the classifier's graph, for any number of images of its own size."""
    write_graph(ClassificationGraph(network), *any_images(network), path, INPUT, [OUTPUT])


def any_images(network: Classifier) -> tuple[Tensor, dict[int, Any]]:
    """Two images of the network's own size as an example, of which the number is not special."""
    side = network.image_size
    images = torch.rand(2, 3, side, side, device=next(network.parameters()).device)
    return images, {0: torch.export.Dim("batch", min=1, max=65536)}


class OnnxClassifier:
    """An exported classifier in ONNX Runtime, on the CPU; `threads` 0 takes all cores."""

    def __init__(self, path: Path, *, threads: int = 0) -> None:
        self.network = OnnxNetwork(path, threads=threads)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Logits [N, K] of images [N, 3, S, S] float32, RGB from 0 to 1."""
        [logits] = self.network(images)
        return logits
