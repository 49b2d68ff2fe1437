"""What is judged, as columns: the truth and the detections of a data set, each number in an array.

Images and categories are numbered from 0 in the order of their ids, which is pycocotools' order.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.results import Result, find_fault

Places = dict[Any, int]


class _Listed(Places):
    """Places of what is listed, and -1 for everything else."""

    def __missing__(self, key: Any) -> int:
        return -1


@dataclass(frozen=True)
class Truths:
    """The annotated objects, in the order of the file; boxes are [x, y, width, height] in px."""

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    area: np.ndarray
    crowd: np.ndarray
    difficult: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Detections:
    """The detections, in the order of the file; boxes are [x, y, width, height] in px."""

    image: np.ndarray
    category: np.ndarray
    box: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True)
class Case:
    """A truth with the detections on its images.

    `images` and `categories` are the file's entries by rising id; `unknown` is how many detections
    of an unlisted category were passed over.
    """

    images: list[dict[str, Any]]
    categories: list[dict[str, Any]]
    truths: Truths
    detections: Detections
    unknown: int = 0

    @property
    def names(self) -> list[str]:
        """Of the categories, in their order."""
        return [category["name"] for category in self.categories]


def build_case(
    truth: dict[str, Any], results: Sequence[Result], path: str | Path = "results"
) -> Case:
    """The case of a truth (see `check_truth`) and COCO results; `path` is named in sentences.

    Raises:
        DataError: an entry of an unknown image, without a score, or not finite.
    """
    images, image_places = _numbered(truth["images"])
    categories, category_places = _numbered(truth["categories"])
    category_places = _Listed(category_places)
    annotations = truth["annotations"]
    sides = array("d", chain.from_iterable(entry["bbox"] for entry in annotations))
    boxes = np.array(sides).reshape(-1, 4)
    sizes = (boxes[:, 2] * boxes[:, 3]).tolist()
    truths = Truths(
        _places([entry["image_id"] for entry in annotations], image_places),
        _places([entry["category_id"] for entry in annotations], category_places),
        boxes,
        np.array(
            [entry.get("area", size) for entry, size in zip(annotations, sizes, strict=True)],
            dtype=float,
        ),
        np.array([bool(entry.get("iscrowd")) for entry in annotations], dtype=bool),
        np.array([_difficult(entry) for entry in annotations], dtype=bool),
    )
    truths = Truths(*(column[truths.category >= 0] for column in vars(truths).values()))
    try:
        detections = _detections(results, image_places, category_places)
    except (KeyError, TypeError, ValueError, OverflowError, IndexError, AttributeError):
        # Columns cannot be made of it: only now is each entry looked at for itself.
        find_fault(results, set(image_places), path)
        detections = _detections(_plain(results), image_places, category_places)
    known = detections.category >= 0
    if known.all():
        return Case(images, categories, truths, detections)
    kept = Detections(*(column[known] for column in vars(detections).values()))
    return Case(images, categories, truths, kept, int((~known).sum()))


def as_results(case: Case) -> list[Result]:
    """The detections as COCO results."""
    images = [image["id"] for image in case.images]
    categories = [category["id"] for category in case.categories]
    found = case.detections
    return [
        {"image_id": images[i], "category_id": categories[c], "bbox": box, "score": score}
        for i, c, box, score in zip(
            found.image.tolist(),
            found.category.tolist(),
            found.box.tolist(),
            found.score.tolist(),
            strict=True,
        )
    ]


def by_image(image: np.ndarray, chosen: np.ndarray) -> dict[int, np.ndarray]:
    """Of each image, its members among the chosen (places, or a mask), in their order."""
    places = np.flatnonzero(chosen) if chosen.dtype == bool else chosen
    order = np.argsort(image[places], kind="stable")
    images, starts = np.unique(image[places][order], return_index=True)
    parts = np.split(places[order], starts[1:]) if len(images) else []
    return dict(zip(images.tolist(), parts, strict=True))


def _numbered(entries: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], Places]:
    ordered = sorted(entries, key=lambda entry: (isinstance(entry["id"], str), entry["id"]))
    return ordered, {entry["id"]: at for at, entry in enumerate(ordered)}


def _places(keys: list[Any], places: Places) -> np.ndarray:
    try:
        numbers, listed = (np.array(array("q", each), dtype=np.int64) for each in (keys, places))
    except (TypeError, OverflowError):  # ids that are names, or of several kinds
        return np.fromiter(map(places.__getitem__, keys), np.int64, len(keys))
    if not len(listed):
        return np.array([places[key] for key in keys], dtype=np.int64)
    found = np.minimum(np.searchsorted(listed, numbers), len(listed) - 1)
    unknown = np.flatnonzero(listed[found] != numbers)
    found[unknown] = [places[keys[at]] for at in unknown.tolist()]
    return found


def _detections(results: Sequence[Result], images: Places, categories: Places) -> Detections:
    """As columns; `array` takes numbers alone, where numpy would take texts for numbers.

    Raises:
        Exception: anything that happens where an entry is not what it should be.
    """
    if not isinstance(results, list):
        raise TypeError("no list")
    of_image, of_category, scores, boxes, flat = [], [], [], [], []
    for result in results:  # once, since going through half a million entries is what takes time
        of_image.append(result["image_id"])
        of_category.append(result["category_id"])
        scores.append(result["score"])
        boxes.append(result["bbox"])
        flat.extend(result["bbox"])
    if set(map(len, boxes)) - {4}:
        raise ValueError("not four numbers")
    made = Detections(
        _places(of_image, images),
        _places(of_category, categories),
        np.array(array("d", flat)).reshape(-1, 4),
        np.array(array("d", scores)),
    )
    if not np.isfinite(made.score).all() or not np.isfinite(made.box).all():
        raise ValueError("not finite")
    if (made.box[:, 2:] < 0).any():
        raise ValueError("negative sizes")
    return made


def _plain(results: Sequence[Result]) -> list[Result]:
    """Numbers of other libraries as Python's own."""
    return [
        {**result, "bbox": list(map(float, result["bbox"])), "score": float(result["score"])}
        for result in results
    ]


def _difficult(entry: dict[str, Any]) -> bool:
    attributes = entry.get("attributes")
    said = attributes.get("difficult") if isinstance(attributes, dict) else None
    return bool(said or entry.get("iscrowd"))
