"""What a study's table says of an ended run: of a detector's, and of a classifier's."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from detkd.config import AnyExperiment, ClassifierExperiment, Experiment
from detkd.data.class_dataset import ClassDataset
from detkd.engine.class_parts import data_of, predict_classes, sides_as_trained
from detkd.engine.compare import cases_of, judge_run
from detkd.engine.run import RunFolder, read_log
from detkd.errors import DataError, UserError
from detkd.evaluation.bootstrap import bootstrap_means as map_means
from detkd.evaluation.case import Case
from detkd.evaluation.class_intervals import bootstrap_means, compare_means
from detkd.evaluation.class_judge import ClassPredictions, aligned, read_predictions
from detkd.evaluation.classes import class_scores, softmax
from detkd.evaluation.paired import enough_draws, paired_means
from detkd.files import digest_of, write_json
from detkd.models.classifier import Classifier, classifier_from, cut_at
from detkd.models.costs import classifier_cost
from detkd.models.weights import read_checkpoint

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Line:
    """A line of the table: the runs of a row, or one exit of them, by its place among the exits."""

    runs: Sequence[Path]
    exit: int | None = None


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
        interval: gives the interval by sample of a line's mean test score, the truth of the test
            given if there is one.
        paired: gives the paired test of one line against another. Either gives None where what the
            runs said on the test images is not there.
        tested: the score that the table shows both of: the column's title, and its key in them.
    """

    experiment: type[AnyExperiment]
    figures: Callable[[Path, Path | None], dict[str, Any]]
    scores: Mapping[str, str]
    val: str
    test: str
    costs: Mapping[str, Callable[[Row], str]]
    interval: Callable[[Line, Path | None], dict[str, Any] | None]
    paired: Callable[[Line, Line, Path | None], dict[str, Any] | None]
    tested: tuple[str, str]
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


def detector_interval(line: Line, test: Path | None) -> dict[str, Any] | None:
    """The interval by sample of the mean of the runs' test mAP; see `bootstrap_means`."""
    cases = _cases(line.runs, test)
    return _short(map_means(cases)) if cases else None


def detector_paired(ours: Line, theirs: Line, test: Path | None) -> dict[str, Any] | None:
    """The paired test of two rows' runs on the test images; see `paired_means`."""
    cases = _cases([*ours.runs, *theirs.runs], test)
    if not cases:
        return None
    first = len(ours.runs)
    return _short(paired_means(cases[:first], cases[first:], draws=enough_draws(cases[0])))


def _cases(runs: Sequence[Path], test: Path | None) -> list[Case]:
    """What each run has found on the test images; nothing without them, or where a run is gone."""
    if test is None:
        return []
    try:
        return cases_of([judge_run(run, test) for run in runs], test)
    except (OSError, UserError):
        return []


def _short(told: dict[str, Any]) -> dict[str, Any]:
    """Without each class's own lines."""
    return {key: value for key, value in told.items() if key != "per_class"}


def class_figures(run: Path, _: Path | None = None) -> dict[str, Any]:
    """Scores on the validation images and, where there is one, on the test side; and the cost.

    The test side is the one of the run's own data, which no training has seen. Weights and
    operations are those of the whole network, with its exits. `exits` has the same of each of them,
    as of the network that is cut there.
    """
    on_val = json.loads((run / "metrics.json").read_text())["classes"]
    checkpoint = read_checkpoint(run / "best.pt")
    network = classifier_from(checkpoint, run / "best.pt")
    said = predictions_on_test(run)
    on_test = class_scores(said.probabilities, said.labels) if said else {}
    sides = {"test": said} if said else {}
    if network.exits:
        sides["val"] = read_predictions(run / "predictions.json")
    return {
        **_scores(on_val, on_test),
        "seconds": _seconds(run),
        **_cost(network),
        "exits": _exits(network, sides) if network.can_stop else {},
    }


SCORES = {"top1": "top1", "balanced": "balanced_accuracy", "macro_f1": "macro_f1"}


def _scores(on_val: Row, on_test: Row) -> dict[str, Any]:
    return {
        f"{side}_{name}": found.get(key)
        for side, found in (("val", on_val), ("test", on_test))
        for name, key in SCORES.items()
    }


def _cost(network: Classifier) -> dict[str, Any]:
    cost = classifier_cost(network)
    return {
        "backbone_parameters": cost.backbone,
        "parameters": cost.parameters,
        "gflops": cost.flops / 1e9,
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


def predictions_on_test(run: Path) -> ClassPredictions | None:
    """What a run's best checkpoint says on the test side of its own data; None if there is none.

    It is kept under `run`/judged/, and counts as long as the checkpoint is the same, byte for byte.
    """
    best, kept = run / "best.pt", run / "judged" / "test.json"
    digest = digest_of(best)
    if kept.is_file():
        with suppress(ValueError, DataError):  # unreadable: it is made again
            if json.loads(kept.read_text()).get("checkpoint") == digest:
                return read_predictions(kept)
    checkpoint = read_checkpoint(best)
    test = sides_as_trained(data_of(checkpoint, best), checkpoint, best).test
    if test is None or not test.images:
        return None
    network = classifier_from(checkpoint, best)
    size, levels = network.image_size, network.levels
    said = predict_classes(network, ClassDataset(test, image_size=size, levels=levels))
    write_json(kept, {"checkpoint": digest, **said.as_dict()})
    return said


def class_interval(line: Line, _: Path | None = None) -> dict[str, Any] | None:
    """The interval by sample of the mean of the runs' test scores; see `bootstrap_means`."""
    said = _same_images(line)
    if not said:
        return None
    first, probabilities = said
    return bootstrap_means(probabilities, first.labels, first.groups)


def class_paired(ours: Line, theirs: Line, _: Path | None = None) -> dict[str, Any] | None:
    """The paired test of two lines on the test images; see `compare_means`."""
    said = _same_images(ours, theirs)
    if not said:
        return None
    first, each = said
    mine = len(ours.runs)
    return compare_means(each[:mine], each[mine:], first.labels, first.groups)


def _same_images(*lines: Line) -> tuple[ClassPredictions, list[np.ndarray]] | None:
    """The first run's test predictions, and the probabilities of all in the order of its images.

    None where a run is gone, has no test side or another one.
    """
    try:
        said = [_said(run, line.exit) for line in lines for run in line.runs]
        there = [each for each in said if each]
        if len(there) < len(said):
            return None
        names = (str(lines[0].runs[0]), "another run")
        return there[0], [aligned(there[0], each, names) for each in there]
    except (OSError, UserError):
        return None


def _said(run: Path, exit_: int | None) -> ClassPredictions | None:
    """What a run, or an exit of it, said of its test images."""
    said = predictions_on_test(run)
    if said is None or exit_ is None:
        return said
    return None if said.exits is None else replace(said, logits=said.exits[:, exit_], exits=None)


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
        detector_interval,
        detector_paired,
        ("test mAP", "AP"),
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
        class_interval,
        class_paired,
        ("test balanced", "balanced_accuracy"),
        ("seconds", "exits"),
    ),
}
