"""COCO's average precision. pycocotools is the judge; hotcoco is a faster one that says the same.

Both get the same columns, so that ids of any kind, and ids from 0, are judged alike.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from detkd.evaluation.case import Case, build_case
from detkd.evaluation.results import Result

NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")
Engine = Literal["hotcoco", "pycocotools"]
ENGINES: tuple[Engine, ...] = ("hotcoco", "pycocotools")
OVERLAPS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class Accumulated:
    """Of pycocotools' settings: precision [overlap, recall, class, area, most] and recall.

    Areas are all, small, medium, large; `most` are 1, 10 and 100 detections an image and class;
    -1 where a setting has no truth.
    """

    precision: np.ndarray
    recall: np.ndarray


def coco_map(
    truth: dict[str, Any], results: Sequence[Result], *, engine: Engine = "hotcoco"
) -> dict[str, Any]:
    """COCO's twelve numbers under "coco", and the main ones of each class under "per_class".

    Fractions from 0 to 1; None where there is nothing to measure.
    """
    return coco_numbers(build_case(truth, results), engine=engine)


def coco_numbers(case: Case, *, engine: Engine = "hotcoco") -> dict[str, Any]:
    """As `coco_map`, of a case."""
    found = accumulate(case, engine=engine)
    return {
        "coco": dict(zip(NAMES, _summary(found), strict=True)),
        "per_class": _per_class(case, found),
    }


def accumulate(case: Case, *, engine: Engine = "hotcoco") -> Accumulated:
    """Precision and recall at COCO's settings, by the engine."""
    if not len(case.detections):
        return _without_detections(case)
    return (_by_hotcoco if engine == "hotcoco" else _by_pycocotools)(case)


def _without_detections(case: Case) -> Accumulated:
    """Precision and recall are 0 wherever there is a truth; neither engine takes an empty list."""
    every = len(case.categories)
    precision = np.full((len(OVERLAPS), len(RECALLS), every, 4, 3), -1.0)
    recall = np.full((len(OVERLAPS), every, 4, 3), -1.0)
    for at, (low, high) in enumerate(AREAS):
        inside = (case.truths.area >= low) & (case.truths.area <= high) & ~case.truths.crowd
        present = np.unique(case.truths.category[inside])
        precision[:, :, present, at] = 0
        recall[:, present, at] = 0
    return Accumulated(precision, recall)


AREAS = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))


def _by_hotcoco(case: Case) -> Accumulated:
    import hotcoco

    truths, found = case.truths, case.detections
    truth = hotcoco.COCO.from_arrays(
        [
            {"id": at + 1, "file_name": "", "width": 0, "height": 0}
            for at in range(len(case.images))
        ],
        [{"id": at + 1, "name": str(at)} for at in range(len(case.categories))],
        truths.image + 1,
        truths.category + 1,
        truths.box,
        area=truths.area,
        iscrowd=truths.crowd,
    )
    columns = (found.image + 1, found.box, found.score, found.category + 1)
    results = truth.load_res(np.column_stack(columns).astype(float))
    evaluation = hotcoco.COCOeval(truth, results, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    numbers = evaluation.eval or {}
    return Accumulated(np.asarray(numbers["precision"]), np.asarray(numbers["recall"]))


def _by_pycocotools(case: Case) -> Accumulated:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truths, found = case.truths, case.detections
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": [{"id": at + 1} for at in range(len(case.images))],
            "categories": [{"id": at + 1} for at in range(len(case.categories))],
            "annotations": [
                {
                    "id": at + 1,
                    "image_id": image + 1,
                    "category_id": category + 1,
                    "bbox": box,
                    "area": area,
                    "iscrowd": int(crowd),
                }
                for at, (image, category, box, area, crowd) in enumerate(
                    zip(
                        truths.image.tolist(),
                        truths.category.tolist(),
                        truths.box.tolist(),
                        truths.area.tolist(),
                        truths.crowd.tolist(),
                        strict=True,
                    )
                )
            ],
        }
        coco.createIndex()
        columns = (found.image + 1, found.category + 1, found.box, found.score)
        results = coco.loadRes(
            [
                dict(zip(("image_id", "category_id", "bbox", "score"), entry, strict=True))
                for entry in zip(*(column.tolist() for column in columns), strict=True)
            ]
        )
        evaluation = COCOeval(coco, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return Accumulated(evaluation.eval["precision"], evaluation.eval["recall"])


def _summary(found: Accumulated) -> list[float | None]:
    """In the order of NAMES."""
    precision, recall = found.precision, found.recall
    return [
        _mean(precision[:, :, :, 0, -1]),
        _mean(precision[0, :, :, 0, -1]),
        _mean(precision[5, :, :, 0, -1]),
        *(_mean(precision[:, :, :, area, -1]) for area in (1, 2, 3)),
        *(_mean(recall[:, :, 0, most]) for most in (0, 1, 2)),
        *(_mean(recall[:, :, area, -1]) for area in (1, 2, 3)),
    ]


def _per_class(case: Case, found: Accumulated) -> dict[str, dict[str, Any]]:
    every = len(case.categories)
    truths = np.bincount(case.truths.category[~case.truths.crowd], minlength=every)
    detections = np.bincount(case.detections.category, minlength=every)
    return {
        name: {
            "AP": _mean(found.precision[:, :, at, 0, -1]),
            "AP50": _mean(found.precision[0, :, at, 0, -1]),
            "AP75": _mean(found.precision[5, :, at, 0, -1]),
            "AR100": _mean(found.recall[:, at, 0, -1]),
            "truths": int(truths[at]),
            "detections": int(detections[at]),
        }
        for at, name in enumerate(case.names)
    }


def _mean(values: np.ndarray) -> float | None:
    """As pycocotools takes it: over the settings that have a truth."""
    known = values[values > -1]
    return float(np.mean(known)) if known.size else None
