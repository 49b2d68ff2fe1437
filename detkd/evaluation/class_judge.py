"""Everything that is known about a classifier's predictions, as one document (metrics.json)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from detkd.coco_json import read_json
from detkd.errors import DataError
from detkd.evaluation.calibration import calibration_error, scaled
from detkd.evaluation.class_intervals import DRAWS, bootstrap_scores
from detkd.evaluation.classes import class_scores, confusion, per_class, softmax
from detkd.evaluation.decisions import Decisions
from detkd.evaluation.early import early_table, stopped
from detkd.evaluation.unknown import at_threshold, coverage_curve, of_foreign

CURVE_POINTS = 50  # of the coverage curve that are kept


@dataclass(frozen=True)
class ClassPredictions:
    """What a classifier said of images: logits [N, K], labels [N], and files and groups.

    `exits` [N, E, K] are the logits of all exits by depth, where there are any; a group is the
    sample that an image is of, or the image.
    """

    classes: tuple[str, ...]
    files: tuple[str, ...]
    groups: tuple[str, ...]
    labels: np.ndarray
    logits: np.ndarray
    exits: np.ndarray | None = None

    @property
    def probabilities(self) -> np.ndarray:
        return softmax(self.logits)

    def as_dict(self) -> dict[str, Any]:
        """As plain values, ready for JSON: one entry an image."""
        images = []
        for at, file in enumerate(self.files):
            entry = {
                "file": file,
                "group": self.groups[at],
                "label": self.classes[self.labels[at]],
                "logits": [round(float(z), 5) for z in self.logits[at]],
            }
            if self.exits is not None:
                entry["exits"] = [[round(float(z), 5) for z in row] for row in self.exits[at]]
            images.append(entry)
        return {"classes": list(self.classes), "images": images}


def read_predictions(path: Path) -> ClassPredictions:
    """Predictions that `eval-cls` or `train-cls` wrote.

    Raises:
        DataError: no such file, or not such a document.
    """
    remedy = "name a predictions.json that train-cls or eval-cls wrote"
    tree = read_json(path, remedy)
    try:
        classes = tuple(tree["classes"])
        number = {name: at for at, name in enumerate(classes)}
        images = tree["images"]
        exits = [image["exits"] for image in images] if "exits" in images[0] else None
        logits = np.array([image["logits"] for image in images], dtype=float)
        if logits.shape != (len(images), len(classes)) or not np.isfinite(logits).all():
            raise ValueError("logits of another number of classes, or not finite")
        return ClassPredictions(
            classes,
            tuple(image["file"] for image in images),
            tuple(str(image["group"]) for image in images),
            np.array([number[image["label"]] for image in images]),
            logits,
            None if exits is None else np.array(exits, dtype=float),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataError(
            f"{path}: holds no predictions of a classifier ({error}); {remedy}."
        ) from error


def judge_classes(
    judged: ClassPredictions,
    decisions: Decisions,
    *,
    foreign: ClassPredictions | None = None,
    flops: Mapping[str, int] | None = None,
    alone: int = 0,
    bootstrap: int = DRAWS,
) -> dict[str, Any]:
    """Scores, per class, confusion, calibration, 'unknown', exits, and intervals over samples.

    Args:
        judged: the predictions.
        decisions: temperature and thresholds, as they were chosen on validation images.
        foreign: predictions of images of classes that are none of the classifier's.
        flops: operations until each exit, where there are exits at which it can stop, and
        alone: those of the head without an exit on the way.
        bootstrap: draws for the intervals; 0 for none.
    """
    probabilities, labels = judged.probabilities, judged.labels
    mended = scaled(judged.logits, decisions.temperature)
    curve = coverage_curve(mended, labels)
    step = max(1, len(curve) // CURVE_POINTS)
    trust = _trust(judged.logits, labels, decisions)
    document: dict[str, Any] = {
        "classes": class_scores(probabilities, labels),
        "per_class": per_class(probabilities, labels, judged.classes),
        "confusion": confusion(probabilities, labels).tolist(),
        "calibration": trust["calibration"],
        "unknown": {**trust["unknown"], "curve": curve[::-1][::step][::-1]},
        "intervals": {},
    }
    if foreign is not None:
        sure = scaled(foreign.logits, decisions.temperature).max(1)
        names = [foreign.classes[at] for at in foreign.labels]
        told = of_foreign(mended.max(1), sure, names, decisions.unknown)
        document["unknown"]["foreign"] = told
    if judged.exits is not None and flops:
        early = math.inf if decisions.early is None else decisions.early
        document["early"] = early_table(judged.exits, labels, flops, alone, early)
        if decisions.early_temperature is not None:
            chosen = stopped(judged.exits, early)
            document["early"] |= _trust(chosen, labels, decisions.of_early)
    if bootstrap:
        document["intervals"] = bootstrap_scores(
            probabilities, labels, judged.groups, draws=bootstrap
        )
    return document


def _trust(logits: np.ndarray, labels: np.ndarray, decisions: Decisions) -> dict[str, Any]:
    """What the probabilities of these logits are worth: calibration, and 'unknown'."""
    mended = scaled(logits, decisions.temperature)
    return {
        "calibration": {
            "ece": calibration_error(softmax(logits), labels),
            "temperature": decisions.temperature,
            "ece_scaled": calibration_error(mended, labels),
        },
        "unknown": {
            "asked_accuracy": decisions.accuracy,
            **at_threshold(mended, labels, decisions.unknown),
        },
    }


def pooled(folds: Mapping[str, ClassPredictions]) -> ClassPredictions:
    """The predictions of several networks on images of their own, as one; by where they are from.

    Exits are left out.

    Raises:
        DataError: they are of other classes, or two are of the same image.
    """
    first = next(iter(folds))
    seen: dict[str, str] = {}
    for name, each in folds.items():
        if each.classes != folds[first].classes:
            raise DataError(f"{name}: is of other classes than {first}; pool folds of one config.")
        for file in each.files:
            if file in seen:
                raise DataError(
                    f"{name}: has '{file}', which {seen[file]} has, too; pool the folds of one "
                    "division, each once."
                )
            seen[file] = name
    parts = list(folds.values())
    return ClassPredictions(
        parts[0].classes,
        tuple(seen),
        tuple(group for each in parts for group in each.groups),
        np.concatenate([each.labels for each in parts]),
        np.concatenate([each.logits for each in parts]),
    )


def aligned(first: ClassPredictions, second: ClassPredictions, names: Sequence[str]) -> np.ndarray:
    """The probabilities of `second` in the order of the images of `first`.

    Raises:
        DataError: they are of other classes or images.
    """
    place = {file: at for at, file in enumerate(second.files)}
    same = first.classes == second.classes and set(place) == set(first.files)
    if same:
        rows = np.array([place[file] for file in first.files])
        same = bool((second.labels[rows] == first.labels).all())
    if not same:
        raise DataError(
            f"{names[1]}: is not of the same images, labels and classes as {names[0]}; judge both "
            "on the same side of the same data."
        )
    return second.probabilities[rows]
