"""The score from which on a detection of a class counts: chosen on validation data, kept in a file.

A threshold chosen on the data that it is judged on flatters; so the file says what it was chosen
on, and choosing on a test split is refused.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

import detkd
from detkd.coco_json import read_json
from detkd.errors import DataError
from detkd.evaluation.case import Case
from detkd.evaluation.curves import ScoreCurve, score_curve
from detkd.evaluation.matching import match
from detkd.files import digest_of

USUAL = 0.5  # where nothing was chosen, or nothing could be
REMEDY = "write it with 'detkd eval --choose-threshold f1'"
SPLITS = {
    "train": {"train", "training"},
    "val": {"val", "valid", "validation", "dev"},
    "test": {"test", "testing", "holdout"},
}


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen: "f1", "counts", or "precision" with the floor that it keeps."""

    name: str
    floor: float = 0.0

    def __str__(self) -> str:
        return f"{self.name}={self.floor:g}" if self.name == "precision" else self.name


def parse_rule(text: str) -> Rule:
    """The rule that a person typed.

    Raises:
        DataError: there is no such rule.
    """
    if text in ("f1", "counts"):
        return Rule(text)
    name, _, value = text.partition("=")
    try:
        floor = float(value)
    except ValueError:
        floor = -1.0
    if name == "precision" and 0 < floor <= 1:
        return Rule(name, floor)
    raise DataError(f"--choose-threshold: '{text}' is none of f1, counts and precision=0.9.")


def choose_thresholds(case: Case, rule: Rule) -> dict[str, dict[str, Any]]:
    """Of each class the threshold, what it gives on this data, and whether the rule was met.

    Of the scores that occur, by overlap 0.5:

        f1           the one of the highest F1 (of equal ones, the highest score)
        precision=p  the one of the highest recall with precision >= p, and if there is none,
                     the one of the highest precision
        counts       the one from which on as many are counted as are there, or nearly

    A class without a truth or without a detection gets 0.5.
    """
    return {
        name: _choose(score_curve(matched), rule)
        for name, matched in zip(case.names, match(case), strict=True)
    }


def _choose(curve: ScoreCurve, rule: Rule) -> dict[str, Any]:
    if not curve.truths or not len(curve.score):
        return {"threshold": USUAL, "met": False, "truths": curve.truths, "counted": 0}
    at, met = _place(curve, rule)
    return {
        "threshold": float(curve.score[at]),
        "met": met,
        "truths": curve.truths,
        "counted": int(curve.counted[at]),
        "precision": float(curve.precision[at]),
        "recall": float(curve.recall[at]),
        "f1": float(curve.f1[at]),
    }


def _place(curve: ScoreCurve, rule: Rule) -> tuple[int, bool]:
    if rule.name == "f1":
        return int(curve.f1.argmax()), True
    if rule.name == "counts":
        return int(np.abs(curve.counted - curve.truths).argmin()), True
    enough = curve.precision >= rule.floor
    if not enough.any():
        return int(curve.precision.argmax()), False
    return int(np.where(enough, curve.recall, -1).argmax()), True


def refuse_test(path: Path, truth: dict[str, Any]) -> None:
    """Let every truth pass but one of a test split.

    Raises:
        DataError: the truth in the file `path` is a test split.
    """
    if split_of(path, truth) == "test":
        raise DataError(
            f"{path}: is of a test split; a threshold that is chosen on it would flatter. Choose "
            "on the validation data, and give the file here with --thresholds."
        )


def thresholds_document(
    case: Case, rule: Rule, path: Path, truth: dict[str, Any]
) -> dict[str, Any]:
    """What is written to thresholds.json, of the truth in the file `path`.

    Raises:
        DataError: the truth is a test split.
    """
    refuse_test(path, truth)
    return {
        "version": detkd.__version__,
        "rule": str(rule),
        "overlap": 0.5,
        "truth": {"file": path.name, "sha256": digest_of(path), "split": split_of(path, truth)},
        "classes": choose_thresholds(case, rule),
    }


def split_of(path: Path, truth: dict[str, Any]) -> str | None:
    """train, val or test, if the file's name, its record, its folder or its images' folder says so.

    The first of them that says something decides. In a file's name a word is enough
    (pond_test.json); a folder has to have the whole name (test/).
    """
    info = truth.get("info")
    record = info.get("detkd") if isinstance(info, dict) else None
    record = record if isinstance(record, dict) else {}
    folders = {PurePosixPath(str(i.get("file_name", ""))).parent for i in truth["images"]}
    for words in (
        re.split(r"[^a-z]+", path.stem.lower()),
        [str(record.get(key)).lower() for key in ("split", "subset")],
        [path.resolve().parent.name.lower()],
        [part.lower() for folder in folders for part in folder.parts] if len(folders) == 1 else [],
    ):
        for split, names in SPLITS.items():
            if names.intersection(words):
                return split
    return None


def read_thresholds(path: Path, names: Sequence[str]) -> np.ndarray:
    """The threshold of each class, in the order of `names`.

    Raises:
        DataError: no file of thresholds, or without one of the classes.
    """
    classes = _read(path)["classes"]
    for name in names:
        row = classes.get(name)
        value = row.get("threshold") if isinstance(row, dict) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
            raise DataError(f"{path}: has no threshold for class '{name}'; {REMEDY}.")
    return np.array([classes[name]["threshold"] for name in names], dtype=float)


def chosen_on(path: Path, truth: Path) -> bool:
    """Whether the thresholds of a file were chosen on this very truth.

    Raises:
        DataError: no file of thresholds.
    """
    said = _read(path).get("truth")
    return isinstance(said, dict) and said.get("sha256") == digest_of(truth)


def _read(path: Path) -> dict[str, Any]:
    document = read_json(path, REMEDY)
    if not isinstance(document, dict) or not isinstance(document.get("classes"), dict):
        raise DataError(f"{path}: is no file of thresholds; {REMEDY}.")
    return document
