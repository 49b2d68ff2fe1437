"""Why a detector loses precision, by TIDE's kinds of error (Bolya et al., ECCV 2020).

A detection that found nothing at overlap t = 0.5 is, by the truth that it overlaps most,

    localisation    of its class, at b <= IoU < t
    classification  of another class, at IoU >= t
    duplicate       of its class, at IoU >= t, but already found by another
    background      none, at IoU <= b
    both            of another class only, at b < IoU < t

with b = 0.1, the first that holds. A truth is missed if nothing found it and no error of
localisation or classification is about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask

from detkd.evaluation.bootstrap import over_classes
from detkd.evaluation.case import Case, by_image
from detkd.evaluation.matching import ClassMatches, match
from detkd.evaluation.ranking import Ranking

FOREGROUND, BACKGROUND = 0.5, 0.1
KINDS = ("classification", "localisation", "both", "duplicate", "background", "missed")


@dataclass(frozen=True)
class Mistake:
    """A wrong detection (a place in the case), what is wrong with it, and the truth meant."""

    detection: int
    kind: str
    truth: int


def error_kinds(case: Case) -> dict[str, Any]:
    """How many errors of each kind there are, and what AP50 would gain if each were mended.

    The oracle mends one kind at a time. A wrong class or place is put right if nothing found that
    truth and, of all the errors of these two kinds about it, this one has the highest score; else
    the detection is left out. Duplicates, background and both are left out; missed truths are not
    asked for. `false_positives` leaves out every wrong detection, `false_negatives` asks for no
    truth that was not found. These are the rules of the authors' own tool, tidecv.
    """
    matches = match(case, (FOREGROUND,))
    mistakes = find_mistakes(case, matches)
    found = _found(case, matches)
    mendable = _mendable(mistakes, found)
    missed = ~case.truths.crowd & ~found
    meant = [m.truth for m in mistakes if m.kind in ("classification", "localisation")]
    unmeant = missed.copy()
    unmeant[meant] = False
    base = _ap50(case, matches)
    wrong = {m.detection for m in mistakes}
    gains = {
        kind: _ap50(case, _mended(case, matches, [m for m in mistakes if m.kind == kind], mendable))
        for kind in KINDS[:-1]
    }
    gains["missed"] = _ap50(case, _without(case, matches, set(), unmeant))
    gains["false_positives"] = _ap50(case, _without(case, matches, wrong, np.zeros_like(missed)))
    gains["false_negatives"] = _ap50(case, _without(case, matches, set(), missed))
    counts = {kind: sum(m.kind == kind for m in mistakes) for kind in KINDS[:-1]}
    return {
        "AP50": base,
        "overlap": FOREGROUND,
        "background_overlap": BACKGROUND,
        "counts": {**counts, "missed": int(unmeant.sum())},
        "gain": {
            kind: None if value is None or base is None else value - base
            for kind, value in gains.items()
        },
    }


def find_mistakes(case: Case, matches: Sequence[ClassMatches]) -> list[Mistake]:
    """Each wrong detection with its kind, by falling score. `matches` are at one overlap, 0.5."""
    wrong = np.concatenate(
        [each.detection[~each.hit[0] & ~each.ignored[0]] for each in matches]
        or [np.empty(0, dtype=np.int64)]
    )
    wrong = wrong[np.argsort(-case.detections.score[wrong], kind="stable")]
    truths_of = by_image(case.truths.image, ~case.truths.crowd)
    kinds: dict[int, Mistake] = {}
    for image, here in by_image(case.detections.image, wrong).items():
        truths = truths_of.get(image, np.empty(0, dtype=np.int64))
        for at, overlaps in zip(here.tolist(), _overlaps(case, here, truths), strict=True):
            same = case.truths.category[truths] == case.detections.category[at]
            kinds[at] = _kind(at, overlaps, same, truths)
    return [kinds[at] for at in wrong.tolist()]


def _overlaps(case: Case, detections: np.ndarray, truths: np.ndarray) -> np.ndarray:
    if not len(truths):
        return np.zeros((len(detections), 0))
    return mask.iou(case.detections.box[detections], case.truths.box[truths], [0] * len(truths))


def _kind(at: int, overlaps: np.ndarray, same: np.ndarray, truths: np.ndarray) -> Mistake:
    own = np.where(same, overlaps, 0)
    other = np.where(same, 0, overlaps)
    if not len(truths):
        return Mistake(at, "background", -1)
    if BACKGROUND <= own.max() < FOREGROUND:
        return Mistake(at, "localisation", int(truths[own.argmax()]))
    if other.max() >= FOREGROUND:
        return Mistake(at, "classification", int(truths[other.argmax()]))
    if own.max() >= FOREGROUND:
        return Mistake(at, "duplicate", int(truths[own.argmax()]))
    if overlaps.max() <= BACKGROUND:
        return Mistake(at, "background", -1)
    return Mistake(at, "both", int(truths[other.argmax()]))


def _found(case: Case, matches: Sequence[ClassMatches]) -> np.ndarray:
    """[truths]: whether a detection found it."""
    found = np.zeros(len(case.truths), dtype=bool)
    for each in matches:
        found[each.truth[0][each.hit[0]]] = True
    return found


def _mendable(mistakes: Sequence[Mistake], found: np.ndarray) -> set[int]:
    """The detections that would find a truth if their class or place were right: one a truth."""
    first: dict[int, int] = {}
    for mistake in mistakes:
        if mistake.kind in ("classification", "localisation") and not found[mistake.truth]:
            first.setdefault(mistake.truth, mistake.detection)
    return set(first.values())


def _mended(
    case: Case, matches: Sequence[ClassMatches], mistakes: Sequence[Mistake], mendable: set[int]
) -> list[ClassMatches]:
    """The matches with these mistakes put right where that can be, and left out elsewhere."""
    changed = {mistake.detection for mistake in mistakes}
    right: list[list[Mistake]] = [[] for _ in matches]
    for mistake in mistakes:
        if mistake.detection in mendable:
            right[int(case.truths.category[mistake.truth])].append(mistake)
    left = _without(case, matches, changed, np.zeros(len(case.truths), dtype=bool))
    return [_with_hits(case, each, added) for each, added in zip(left, right, strict=True)]


def _with_hits(case: Case, matched: ClassMatches, added: Sequence[Mistake]) -> ClassMatches:
    """With these detections as hits of the truths that they mean."""
    places = np.array([mistake.detection for mistake in added], dtype=np.int64)
    truth = np.array([[mistake.truth for mistake in added]], dtype=np.int64)
    return ClassMatches(
        np.concatenate([matched.detection, places]),
        np.concatenate([matched.image, case.detections.image[places]]),
        np.concatenate([matched.score, case.detections.score[places]]),
        np.concatenate([matched.truth, truth.reshape(1, -1)], axis=1),
        np.concatenate([matched.ignored, np.zeros((1, len(added)), dtype=bool)], axis=1),
        matched.positives,
    )


def _without(
    case: Case, matches: Sequence[ClassMatches], detections: set[int], truths: np.ndarray
) -> list[ClassMatches]:
    """The matches without some detections, and with the marked truths not asked for."""
    gone = np.array(sorted(detections), dtype=np.int64)
    every = len(case.images)
    said = []
    for at, each in enumerate(matches):
        kept = ~np.isin(each.detection, gone)
        unasked = case.truths.image[truths & (case.truths.category == at)]
        said.append(
            ClassMatches(
                each.detection[kept],
                each.image[kept],
                each.score[kept],
                each.truth[:, kept],
                each.ignored[:, kept],
                each.positives - np.bincount(unasked, minlength=every),
            )
        )
    return said


def _ap50(case: Case, matches: Sequence[ClassMatches]) -> float | None:
    """Mean over the classes of the truth; a class of which nothing is asked any more gives 0."""
    once = np.ones((1, len(case.images)), dtype=np.int32)
    asked = np.bincount(case.truths.category[~case.truths.crowd], minlength=len(matches)) > 0
    values = np.full((1, len(matches)), np.nan)
    for at, each in enumerate(matches):
        if asked[at]:
            positives = np.array([each.positives.sum()])
            found = Ranking([each], 1).average_precision(once, positives)
            values[0, at] = np.nan_to_num(found[0, 0])
    mean = over_classes(values)[0]
    return None if np.isnan(mean) else float(mean)
