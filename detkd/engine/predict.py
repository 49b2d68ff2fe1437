"""Detections of a data set, as COCO results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from detkd.data.dataset import CocoDataset, coco_results, collate, fitted_size
from detkd.errors import DataError
from detkd.models.detector import Detector


def open_for_judging(
    checkpoint: Path, truth: Path, images: Path | None = None
) -> tuple[Detector, CocoDataset]:
    """The detector of a checkpoint, and the images on which it is judged.

    Raises:
        CheckpointError: no checkpoint of detkd.
        DataError: as `images_for`.
    """
    detector = Detector.load(checkpoint)
    return detector, images_for(detector, checkpoint, truth, images)


def images_for(
    detector: Detector, checkpoint: Path, truth: Path, images: Path | None = None
) -> CocoDataset:
    """The images of `truth` as the detector wants them (`images`: their folder).

    Raises:
        DataError: the truth cannot be used, or has other classes than the detector, which is that
            of `checkpoint`.
    """
    dataset = CocoDataset(truth, images=images, image_size=detector.image_size, cache="none")
    dataset.levels = detector.levels or dataset.levels  # 16 bits are mapped as in training
    if detector.classes != dataset.classes:
        ours, theirs = len(detector.classes), len(dataset.classes)
        differing = sorted(set(detector.classes) ^ set(dataset.classes))
        what = f"only one has '{differing[0]}'" if differing else "their order differs"
        raise DataError(
            f"{checkpoint} knows {ours} classes and {truth} has {theirs}: {what}. "
            "Judge on the categories that it was trained on (convert with the same --classes)."
        )
    return dataset


@torch.no_grad()
def predict(
    detector: Detector,
    dataset: CocoDataset,
    *,
    batch_size: int = 8,
    workers: int = 0,
    device: str | torch.device | None = None,
    progress: Callable[[int], object] | None = None,
    chosen: Sequence[int] | None = None,
) -> list[dict[str, Any]]:
    """COCO results, boxes in px of the original images, in the data set's order.

    Images of one padded size go through the detector together, so that each is seen as it is alone:
    the padding that a larger neighbour brings would be one more thing to learn from, and is not
    there when the detector is at work. The detector is put into evaluation mode and back after it.
    `progress` is called with the number of images of each batch. `chosen` are places of images in
    the data set; all of them, if it is not given.
    """
    device = device or next(detector.parameters()).device
    training = detector.training
    detector.to(device).eval()
    places = range(len(dataset)) if chosen is None else chosen
    multiple = detector.transform.size_divisible
    batches = _batches(dataset, places, batch_size, multiple)
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate,
    )
    results: dict[int, list[dict[str, Any]]] = {}
    for at, (images, targets) in zip(batches, loader, strict=True):
        # The file may state other sizes than the images have.
        sizes = [_cells(image.shape[-2], image.shape[-1], multiple) for image in images]
        for rows in _alike(sizes):
            detections = detector([images[row].to(device) for row in rows])
            for row, found in zip(rows, detections, strict=True):
                each = coco_results(images[row], targets[row], found, dataset.category_ids)
                results[at[row]] = each
        if progress:
            progress(len(images))
    detector.train(training)
    return [result for place in places for result in results[place]]


def _batches(
    dataset: CocoDataset, places: Sequence[int], batch_size: int, multiple: int
) -> list[list[int]]:
    """Batches of places whose images have one padded size, as far as the file says it."""
    sizes: list[tuple[int, ...]] = []
    for place in places:
        image = dataset.truth["images"][place]
        try:
            sides = fitted_size(image["height"], image["width"], dataset.image_size)
            sizes.append(_cells(*sides, multiple))
        except (TypeError, ArithmeticError):  # no sizes that could be true
            sizes.append(())
    return [
        [places[row] for row in rows[start : start + batch_size]]
        for rows in _alike(sizes)
        for start in range(0, len(rows), batch_size)
    ]


def _cells(height: int, width: int, multiple: int) -> tuple[int, int]:
    """The padded size, counted in the multiples to which it is padded."""
    return -(-height // multiple), -(-width // multiple)


def _alike(sizes: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Places of equal sizes, in the order in which each came first."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for at, size in enumerate(sizes):
        groups.setdefault(size, []).append(at)
    return list(groups.values())
