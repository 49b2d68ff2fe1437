"""A classifier with exits as ONNX files in a row, run as far as the first exit that is sure.

`exits/c2.onnx` takes the images as far as the exit on c2, the next file takes the features of that
stage as far as the next exit, and `exits/last.onnx` ends with the head.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from detkd.deploy.onnx_classifier import INPUT, OUTPUT, any_images
from detkd.deploy.onnx_model import OnnxNetwork, write_graph
from detkd.models.classifier import Classifier
from detkd.models.early_exit import parts_by_exit

FOLDER, FEATURES = "exits", "features"


class ExitGraph(nn.Module):
    """The stages from one exit to the next: their logits [N, K], and features for the next part.

    The first part takes images [N, 3, S, S] from 0 to 1; nobody needs the features of the last.
    """

    def __init__(
        self, network: Classifier, stages: nn.Module, end: nn.Module, *, first: bool
    ) -> None:
        super().__init__()
        self.network, self.stages, self.end, self.first = network, stages, end, first
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.first:
            x = self.network.batch(x)
        x = self.stages(x)
        return self.end(x)[1], x


def write_onnx_exits(network: Classifier, folder: Path) -> list[str]:
    """Write a file for each exit and the head into `folder`/exits; their names, in that order."""
    (folder / FOLDER).mkdir()
    x, many = any_images(network)
    parts = parts_by_exit(network)
    for at, (name, (stages, end)) in enumerate(parts.items()):
        graph = ExitGraph(network, stages, end, first=at == 0)
        path, given = folder / FOLDER / f"{name}.onnx", INPUT if at == 0 else FEATURES
        write_graph(graph, x, many, path, given, [OUTPUT, f"{FEATURES}_{name}"])
        with torch.no_grad():
            x = graph(x)[1]
    return list(parts)


class OnnxExits:
    """Exported exits in ONNX Runtime, on the CPU; `threads` 0 takes all cores."""

    def __init__(self, folder: Path, names: Sequence[str], *, threads: int = 0) -> None:
        self.parts = {
            name: OnnxNetwork(folder / FOLDER / f"{name}.onnx", threads=threads) for name in names
        }

    def __call__(self, images: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
        """The logits [N, K] of each exit, then of the head, of images [N, 3, S, S] float32.

        A part runs when its exit is asked for, and no further.
        """
        x = images
        for name, part in self.parts.items():
            logits, x = part(x)
            yield name, logits
