"""What a study's table says of an ended run: of a detector's, and of a classifier's."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detkd.config import AnyExperiment, ClassDataConfig, ClassifierExperiment, Experiment
from detkd.data.class_dataset import ClassDataset
from detkd.engine.class_parts import predict_classes, sides_of
from detkd.engine.compare import judge_run
from detkd.engine.run import RunFolder, read_log
from detkd.evaluation.class_judge import ClassPredictions, read_predictions
from detkd.evaluation.classes import class_scores, softmax
from detkd.models.backbones import TimmBackbone
from detkd.models.classifier import Classifier, classifier_from, cut_at, without_exits
from detkd.models.early_exit import LAST, exit_flops
from detkd.models.weights import read_checkpoint

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Kind:
    """What the trainings of a study are, and what its table says of them.

    Args:
        experiment: what a config of its rows is read as.
        figures: gives what is told of a run folder, the truth of the test given if there is one.
        scores: one a run: the column's title, and its key among the figures.
        val, test: the scores by which a row's share of the gap is told, the test's where there is
            one.
        costs: the same for all runs of a row: the column's title, and its text.
        besides: what else each run has of its own, by its key among the figures.
    """

    experiment: type[AnyExperiment]
    figures: Callable[[Path, Path | None], dict[str, Any]]
    scores: Mapping[str, str]
    val: str
    test: str
    costs: Mapping[str, Callable[[Row], str]]
    besides: Sequence[str] = ("seconds",)


def detector_figures(run: Path, test: Path | None) -> dict[str, Any]:
    """mAP on the validation and the test images; the test is judged once."""
    metrics = json.loads((run / "metrics.json").read_text())
    judged = judge_run(run, test) if test else None
    cost = judged.cost if judged else None
    return {
        "val_map": metrics["coco"]["AP"],
        "test_map": judged.scores["AP"] if judged else None,
        "test_ap50": judged.scores["AP50"] if judged else None,
        "seconds": _seconds(run),
        "backbone_parameters": cost.backbone if cost else None,
        "parameters": cost.parameters if cost else None,
        "gflops": cost.gflops if cost else None,
    }


def class_figures(run: Path, _: Path | None = None) -> dict[str, Any]:
    """Scores on the validation images and, where there is one, on the test side; and the cost.

    The test side is the one of the run's own data, which no training has seen. Weights and
    operations are those of the whole network, with its exits. `exits` has the same of each of them,
    as of the network that is cut there.
    """
    on_val = json.loads((run / "metrics.json").read_text())["classes"]
    checkpoint = read_checkpoint(run / "best.pt")
    network = classifier_from(checkpoint, run / "best.pt")
    test = sides_of(ClassDataConfig(**checkpoint["config"]["data"])).test
    on_test: dict[str, Any] = {}
    sides = {"val": read_predictions(run / "predictions.json")} if network.exits else {}
    if test is not None and test.images:
        said = predict_classes(
            network, ClassDataset(test, image_size=network.image_size, levels=network.levels)
        )
        on_test = class_scores(said.probabilities, said.labels)
        sides["test"] = said
    return {
        **_scores(on_val, on_test),
        "seconds": _seconds(run),
        **_cost(network),
        "exits": {} if isinstance(network.backbone, TimmBackbone) else _exits(network, sides),
    }


SCORES = {"top1": "top1", "balanced": "balanced_accuracy", "macro_f1": "macro_f1"}


def _scores(on_val: Row, on_test: Row) -> dict[str, Any]:
    return {
        f"{side}_{name}": found.get(key)
        for side, found in (("val", on_val), ("test", on_test))
        for name, key in SCORES.items()
    }


def _cost(network: Classifier) -> dict[str, Any]:
    # A timm backbone runs as a whole, whatever exits it has.
    runs = without_exits(network) if isinstance(network.backbone, TimmBackbone) else network
    return {
        "backbone_parameters": sum(w.numel() for w in network.backbone.parameters()),
        "parameters": sum(w.numel() for w in network.parameters()),
        "gflops": exit_flops(runs, network.image_size)[LAST] / 1e9,
    }


def _exits(network: Classifier, sides: Mapping[str, ClassPredictions]) -> dict[str, Any]:
    """Scores and cost of each exit, from what it said of the images of each side."""
    found = {}
    for at, name in enumerate(network.exits):
        by_side = {
            side: class_scores(softmax(said.exits[:, at]), said.labels)
            for side, said in sides.items()
            if said.exits is not None
        }
        scores = _scores(by_side["val"], by_side.get("test", {}))
        found[name] = {**scores, **_cost(cut_at(network, name))}
    return found


def _seconds(run: Path) -> float:
    """How long the training took, as its log says."""
    return max((line.get("seconds", 0.0) for line in read_log(RunFolder(run))), default=0.0)


# By the command that runs them.
KINDS = {
    "train": Kind(
        Experiment,
        detector_figures,
        {"val mAP": "val_map", "test mAP": "test_map", "test AP50": "test_ap50"},
        "val_map",
        "test_map",
        {"minutes": lambda row: f"{statistics.mean(row['seconds']) / 60:.0f}"},
    ),
    "train-cls": Kind(
        ClassifierExperiment,
        class_figures,
        {
            "val top-1": "val_top1",
            "val balanced": "val_balanced",
            "val macro F1": "val_macro_f1",
            "test top-1": "test_top1",
            "test balanced": "test_balanced",
            "test macro F1": "test_macro_f1",
        },
        "val_balanced",
        "test_balanced",
        {
            "params": lambda row: f"{row['parameters']:,}",
            "MFLOPs": lambda row: f"{1000 * row['gflops']:.1f}",
            "seconds": lambda row: f"{statistics.mean(row['seconds']):.0f}",
        },
        ("seconds", "exits"),
    ),
}
