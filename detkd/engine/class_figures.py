"""What a study's table says of a classifier's run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from detkd.config import ClassDataConfig
from detkd.data.class_dataset import ClassDataset
from detkd.engine.class_parts import predict_classes, sides_of
from detkd.engine.run import RunFolder, read_log
from detkd.evaluation.classes import class_scores
from detkd.models.classifier import classifier_from
from detkd.models.early_exit import LAST, exit_flops
from detkd.models.weights import read_checkpoint


def class_figures(run: Path) -> dict[str, Any]:
    """Scores on the validation images and, where there is one, on the test side; and the cost.

    The test side is the one of the run's own data, which no training has seen.
    """
    metrics = json.loads((run / "metrics.json").read_text())["classes"]
    checkpoint = read_checkpoint(run / "best.pt")
    network = classifier_from(checkpoint, run / "best.pt")
    test = sides_of(ClassDataConfig(**checkpoint["config"]["data"])).test
    on_test: dict[str, Any] = {}
    if test is not None and test.images:
        said = predict_classes(network, ClassDataset(test, image_size=network.image_size))
        on_test = class_scores(said.probabilities, said.labels)
    seconds = [line.get("seconds", 0.0) for line in read_log(RunFolder(run))]
    return {
        "val_balanced": metrics["balanced_accuracy"],
        "test_balanced": on_test.get("balanced_accuracy"),
        "test_top1": on_test.get("top1"),
        "test_macro_f1": on_test.get("macro_f1"),
        "seconds": max(seconds, default=0.0),
        "backbone_parameters": sum(w.numel() for w in network.backbone.parameters()),
        "parameters": sum(w.numel() for w in network.parameters()),
        "gflops": exit_flops(network, network.image_size)[LAST] / 1e9,
    }
