"""Graphs take seconds to write: exports take over earlier ones, or change their weights."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def take_over_graphs(patch: pytest.MonkeyPatch, folder: Path, model: str | Path = "model.onnx"):
    """Exports write the graphs of this exported folder, which is of the same checkpoint."""
    parts = folder / "model_parts"
    patch.setattr(
        "detkd.deploy.onnx_model.write_onnx", lambda _, path: shutil.copy(folder / model, path)
    )
    patch.setattr(
        "detkd.deploy.onnx_model.write_parts",
        lambda _, path: shutil.copytree(parts, path, dirs_exist_ok=True),
    )


def change_weights(
    model: Path, to: Path, name: str, change: Callable[[np.ndarray], np.ndarray]
) -> None:
    """Write the ONNX model with the weights of this name changed."""
    import onnx
    from onnx import numpy_helper

    tree = onnx.load(model)
    [weights] = [each for each in tree.graph.initializer if each.name == name]
    changed = change(numpy_helper.to_array(weights).copy())
    weights.CopyFrom(numpy_helper.from_array(changed, name))
    onnx.save(tree, to)
