"""Whether an exported model finds what its checkpoint finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BOX_PX, SCORE = 0.05, 1e-4  # how far the two may be apart


@dataclass(frozen=True)
class Found:
    """Detections of a frame, best first: boxes [D, 4] xyxy px, scores [D] and labels [D]."""

    boxes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Difference:
    """What two detectors' detections of one frame differ by.

    `box_px` and `score` are the greatest distances of those that belong together; `missing` are
    the places of those of the first that have no partner in the second, `extra` of those of the
    second that have none in the first, `ties` counts those that could lack one.
    """

    box_px: float
    score: float
    missing: tuple[int, ...]
    extra: tuple[int, ...]
    ties: int

    @property
    def alone(self) -> int:
        return len(self.missing) + len(self.extra)


def difference(ours: Found, theirs: Found, *, score_threshold: float, limit: int) -> Difference:
    """Each detection of either side with the nearest of its class on the other side.

    Two belong together if their boxes are within 0.05 px and their scores within 1e-4, in any
    order. One without a partner is a tie, and no difference, where rounding decides whether it
    is shown at all: its score is within 1e-4 of the detector's threshold, or, on a side that
    shows as many as it may, of the last one shown. Nothing else is forgiven here.
    """
    edges = [score_threshold]
    edges += [float(side.scores.min()) for side in (ours, theirs) if len(side.scores) >= limit > 0]
    pairs = together(ours, theirs)
    missing, extra = (
        [at for at in range(len(side.scores)) if at not in taken]
        for side, taken in zip((ours, theirs), map(set, pairs.T.tolist()), strict=True)
    )
    edge = [
        [bool((np.abs(edges - side.scores[at]) <= SCORE).any()) for at in lone]
        for side, lone in ((ours, missing), (theirs, extra))
    ]
    first, second = pairs.T
    return Difference(
        float(np.abs(ours.boxes[first] - theirs.boxes[second]).max(initial=0)),
        float(np.abs(ours.scores[first] - theirs.scores[second]).max(initial=0)),
        tuple(at for at, tie in zip(missing, edge[0], strict=True) if not tie),
        tuple(at for at, tie in zip(extra, edge[1], strict=True) if not tie),
        sum(edge[0]) + sum(edge[1]),
    )


def together(ours: Found, theirs: Found, *, slack: float = 1.0) -> np.ndarray:
    """Places [n, 2] of what belongs together, within the tolerances times `slack`.

    Each belongs to one pair at most; the best of ours choose first, the nearest by score.
    """
    if not len(ours.scores) or not len(theirs.scores):
        return np.empty((0, 2), dtype=int)
    boxes = np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(axis=2)
    scores = np.abs(ours.scores[:, None] - theirs.scores[None])
    fits = (boxes <= BOX_PX * slack) & (scores <= SCORE * slack)
    fits &= ours.labels[:, None] == theirs.labels[None]
    pairs = []
    for at in np.where(fits.any(axis=1))[0]:
        chosen = np.where(fits[at])[0]
        if len(chosen):
            nearest = chosen[scores[at, chosen].argmin()]
            pairs.append((at, nearest))
            fits[:, nearest] = False
    return np.array(pairs, dtype=int).reshape(-1, 2)


def lone(ours: Found, theirs: Found, *, slack: float = 1.0) -> np.ndarray:
    """Places of those of ours that have no partner in theirs."""
    return np.setdiff1d(np.arange(len(ours.scores)), together(ours, theirs, slack=slack)[:, 0])
