"""Which detection found which truth: pycocotools' matching, once, kept for all that follows.

Intervals, error types, curves and thresholds all start from here, so they speak of the very hits
and misses that COCO's numbers count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask

from detkd.evaluation.case import Case

MOST = 100  # detections of one class that count in an image
EVERY_AREA = (0.0, 1e10)


@dataclass(frozen=True)
class ClassMatches:
    """Of one class: its detections by falling score (D), and what they found at T overlaps.

    Equal scores stand in the order of images, then of the file, as pycocotools sorts them.
    `detection` and `truth` are places in the case; `truth` is -1 where nothing was found.
    """

    detection: np.ndarray  # [D]
    image: np.ndarray  # [D]
    score: np.ndarray  # [D]
    truth: np.ndarray  # [T, D]
    ignored: np.ndarray  # [T, D] neither right nor wrong: on a crowd, or outside the area
    positives: np.ndarray  # [images] truths that are to be found

    @property
    def hit(self) -> np.ndarray:
        """[T, D]: found a truth that counts."""
        return (self.truth >= 0) & ~self.ignored


def match(
    case: Case,
    overlaps: Sequence[float] | np.ndarray = (0.5,),
    *,
    area: tuple[float, float] = EVERY_AREA,
    most: int = MOST,
) -> list[ClassMatches]:
    """Matches of each category, by pycocotools' rule, for truths of an area in [low, high] px².

    In each image the detections choose by falling score: each takes the free truth that it
    overlaps most, from the given overlap on; a truth that does not count (a crowd, or outside the
    area) only if no other is left, and a crowd any number of times.
    """
    return [
        _match_class(case, at, np.asarray(overlaps, dtype=float), area, most)
        for at in range(len(case.categories))
    ]


def _match_class(
    case: Case, category: int, overlaps: np.ndarray, area: tuple[float, float], most: int
) -> ClassMatches:
    truths, found = case.truths, case.detections
    aside = truths.crowd | (truths.area < area[0]) | (truths.area > area[1])
    of_class = np.flatnonzero(truths.category == category)
    of_class = of_class[np.lexsort((aside[of_class], truths.image[of_class]))]
    chosen = np.flatnonzero(found.category == category)
    chosen = chosen[np.lexsort((-found.score[chosen], found.image[chosen]))]
    chosen = chosen[_rank_in_image(found.image[chosen]) < most]
    taken = np.full((len(overlaps), len(chosen)), -1)
    for rows, columns in pairs_by_image(found.image[chosen], truths.image[of_class]):
        here = of_class[columns]
        shared = mask.iou(found.box[chosen[rows]], truths.box[here], truths.crowd[here].tolist())
        _choose(shared, overlaps, aside[here], truths.crowd[here], here, taken[:, rows])
    width, height = found.box[chosen, 2], found.box[chosen, 3]
    outside = (width * height < area[0]) | (width * height > area[1])
    ignored = np.where(taken >= 0, aside[taken], outside) if len(truths) else outside[None]
    order = np.argsort(-found.score[chosen], kind="stable")
    return ClassMatches(
        chosen[order],
        found.image[chosen][order],
        found.score[chosen][order],
        taken[:, order],
        np.broadcast_to(ignored, taken.shape)[:, order],
        np.bincount(truths.image[of_class[~aside[of_class]]], minlength=len(case.images)),
    )


def _rank_in_image(image: np.ndarray) -> np.ndarray:
    """Place of each among its image's, for images in order."""
    return np.arange(len(image)) - np.searchsorted(image, image)


def pairs_by_image(found: np.ndarray, truths: np.ndarray) -> Iterator[tuple[slice, slice]]:
    """Of each image with both, its rows in either list; both are in the order of images."""
    images = np.intersect1d(found, truths)
    edges = [np.searchsorted(side, (images, images + 1)).T.tolist() for side in (found, truths)]
    for rows, columns in zip(*edges, strict=True):
        yield slice(*rows), slice(*columns)


def _choose(
    shared: np.ndarray,
    overlaps: np.ndarray,
    aside: np.ndarray,
    crowd: np.ndarray,
    place: np.ndarray,
    taken: np.ndarray,
) -> None:
    """Fill `taken` [T, D] with places of truths; `shared` [D, G] overlaps, truths aside last."""
    if not shared.size or shared.max() < overlaps.min():
        return
    rows = [
        (at, [(g, row[g]) for g in np.flatnonzero(row >= overlaps.min()).tolist()])
        for at, row in enumerate(shared)
    ]
    rows = [(at, near) for at, near in rows if near]
    aside_of, crowd_of, place_of = aside.tolist(), crowd.tolist(), place.tolist()
    for level, overlap in enumerate(overlaps.tolist()):
        gone: set[int] = set()
        for at, near in rows:
            best, chosen = min(overlap, 1 - 1e-10), -1
            for g, value in near:
                if g in gone and not crowd_of[g]:
                    continue
                if chosen >= 0 and not aside_of[chosen] and aside_of[g]:
                    break
                if value >= best:
                    best, chosen = value, g
            if chosen >= 0:
                gone.add(chosen)
                taken[level, at] = place_of[chosen]
