"""COCO's average precision. pycocotools is the judge; this file only asks it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detkd.evaluation.results import Result

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def evaluate(truth: dict[str, Any], results: Sequence[Result]) -> COCOeval:
    """pycocotools' evaluation, accumulated and summarised, without a word printed."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        # pycocotools writes into what it is given.
        coco.dataset = {**truth, "annotations": [dict(box) for box in truth["annotations"]]}
        coco.createIndex()
        if results:
            found = coco.loadRes([dict(result) for result in results])
        else:
            found = COCO()
            found.dataset = {**truth, "annotations": []}
            found.createIndex()
        evaluation = COCOeval(coco, found, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation


def coco_map(truth: dict[str, Any], results: Sequence[Result]) -> dict[str, Any]:
    """COCO's twelve numbers under "coco", and the main ones of each class under "per_class".

    Fractions from 0 to 1; None where there is nothing to measure. `truth` needs annotation ids
    from 1 on (see `check_truth`).
    """
    evaluation = evaluate(truth, results)
    numbers = dict(zip(NAMES, map(_fraction, evaluation.stats), strict=True))
    return {"coco": numbers, "per_class": _per_class(truth, results, evaluation)}


def precision_curves(truth: dict[str, Any], results: Sequence[Result]) -> dict[str, np.ndarray]:
    """Precision at recall 0, 0.01, .. 1 and overlap 0.5 of each class that has a truth."""
    precision = evaluate(truth, results).eval["precision"]  # [overlap, recall, class, area, most]
    return {
        category["name"]: precision[0, :, at, 0, -1]
        for at, category in enumerate(_categories(truth))
        if (precision[0, :, at, 0, -1] > -1).all()
    }


def _per_class(
    truth: dict[str, Any], results: Sequence[Result], evaluation: COCOeval
) -> dict[str, dict[str, Any]]:
    precision = evaluation.eval["precision"]  # [overlap, recall, class, area, most]
    recall = evaluation.eval["recall"]  # [overlap, class, area, most]
    table = {}
    for at, category in enumerate(_categories(truth)):
        same = [b for b in truth["annotations"] if b["category_id"] == category["id"]]
        table[category["name"]] = {
            "AP": _mean(precision[:, :, at, 0, -1]),
            "AP50": _mean(precision[0, :, at, 0, -1]),
            "AP75": _mean(precision[5, :, at, 0, -1]),
            "AR100": _mean(recall[:, at, 0, -1]),
            "truths": sum(not box.get("iscrowd") for box in same),
            "detections": sum(r["category_id"] == category["id"] for r in results),
        }
    return table


def _categories(truth: dict[str, Any]) -> list[dict[str, Any]]:
    """In pycocotools' order."""
    return sorted(truth["categories"], key=lambda category: category["id"])


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def _fraction(value: float) -> float | None:
    return float(value) if value > -1 else None
