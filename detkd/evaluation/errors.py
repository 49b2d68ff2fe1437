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
    of_kind: dict[str, list[Mistake]] = {kind: [] for kind in KINDS[:-1]}
    for mistake in mistakes:
        of_kind[mistake.kind].append(mistake)
    missed = ~case.truths.crowd & ~found
    unmeant = missed.copy()
    for mistake in of_kind["classification"] + of_kind["localisation"]:
        unmeant[mistake.truth] = False
    none_gone, all_asked = np.zeros(len(case.detections), dtype=bool), np.zeros_like(missed)
    mendable = _mendable(mistakes, found)
    base = _ap50(case, matches)
    gains = {
        kind: _ap50(case, _mended(case, matches, alike, mendable))
        for kind, alike in of_kind.items()
    }
    right_alone = _without(case, matches, _marked(case, mistakes), all_asked)
    gains["missed"] = _ap50(case, _without(case, matches, none_gone, unmeant))
    gains["false_positives"] = _ap50(case, right_alone)
    gains["false_negatives"] = _ap50(case, _without(case, matches, none_gone, missed))
    counts = {kind: len(alike) for kind, alike in of_kind.items()}
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
        for mistake in _in_image(case, here, truths_of.get(image)):
            kinds[mistake.detection] = mistake
    return [kinds[at] for at in wrong.tolist()]


def _in_image(case: Case, here: np.ndarray, truths: np.ndarray | None) -> list[Mistake]:
    """The kinds of the wrong detections of one image."""
    if truths is None:
        return [Mistake(at, "background", -1) for at in here.tolist()]
    overlaps = mask.iou(case.detections.box[here], case.truths.box[truths], [0] * len(truths))
    same = case.detections.category[here][:, None] == case.truths.category[truths]
    own, other = np.where(same, overlaps, 0), np.where(same, 0, overlaps)
    near, wrong = own.max(axis=1), other.max(axis=1)
    kinds = np.select(
        [
            (near >= BACKGROUND) & (near < FOREGROUND),
            wrong >= FOREGROUND,
            near >= FOREGROUND,
            overlaps.max(axis=1) <= BACKGROUND,
        ],
        ["localisation", "classification", "duplicate", "background"],
        "both",
    )
    of_own = np.isin(kinds, ("localisation", "duplicate"))
    meant = truths[np.where(of_own, own.argmax(axis=1), other.argmax(axis=1))]
    return [
        Mistake(at, kind, -1 if kind == "background" else truth)
        for at, kind, truth in zip(here.tolist(), kinds.tolist(), meant.tolist(), strict=True)
    ]


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
    right: list[list[Mistake]] = [[] for _ in matches]
    for mistake in mistakes:
        if mistake.detection in mendable:
            right[int(case.truths.category[mistake.truth])].append(mistake)
    left = _without(case, matches, _marked(case, mistakes), np.zeros(len(case.truths), dtype=bool))
    return [_with_hits(case, each, added) for each, added in zip(left, right, strict=True)]


def _marked(case: Case, mistakes: Sequence[Mistake]) -> np.ndarray:
    """[detections]: whether it is one of these mistakes."""
    marked = np.zeros(len(case.detections), dtype=bool)
    marked[[mistake.detection for mistake in mistakes]] = True
    return marked


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
    case: Case, matches: Sequence[ClassMatches], gone: np.ndarray, truths: np.ndarray
) -> list[ClassMatches]:
    """The matches without the marked detections, and with the marked truths not asked for."""
    every = len(case.images)
    said = []
    for at, each in enumerate(matches):
        kept = ~gone[each.detection]
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
