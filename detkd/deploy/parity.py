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

    `box_px` and `score` are the greatest distances of those that belong together; `alone` counts
    those of either side that have no partner, `ties` those that could lack one.
    """

    box_px: float
    score: float
    alone: int
    ties: int

    @property
    def equal(self) -> bool:
        return not self.alone


def difference(ours: Found, theirs: Found, *, score_threshold: float, limit: int) -> Difference:
    """Each detection of either side with the nearest of its class on the other side.

    Two belong together if their boxes are within 0.05 px and their scores within 1e-4, in any
    order. One without a partner is a tie, and no difference, where rounding decides whether it
    is shown at all: its score is within 1e-4 of the detector's threshold, or, on a side that
    shows as many as it may, of the last one shown. Nothing else is forgiven.
    """
    if not len(ours.scores) or not len(theirs.scores):
        both = np.concatenate([ours.scores, theirs.scores])
        ties = int((np.abs(both - score_threshold) <= SCORE).sum())
        return Difference(0.0, 0.0, len(both) - ties, ties)
    boxes = np.abs(ours.boxes[:, None] - theirs.boxes[None]).max(axis=2)
    scores = np.abs(ours.scores[:, None] - theirs.scores[None])
    fits = (boxes <= BOX_PX) & (scores <= SCORE)
    fits &= ours.labels[:, None] == theirs.labels[None]
    partner = np.full(len(ours.scores), -1)
    free = np.ones(len(theirs.scores), dtype=bool)
    for at in range(len(partner)):
        chosen = np.where(fits[at] & free)[0]
        if len(chosen):
            partner[at] = chosen[scores[at, chosen].argmin()]
            free[partner[at]] = False
    paired = np.where(partner >= 0)[0]
    lone = np.concatenate([ours.scores[partner < 0], theirs.scores[free]])
    edges = [score_threshold]
    edges += [float(side.scores.min()) for side in (ours, theirs) if len(side.scores) >= limit]
    tied = (np.abs(lone[:, None] - np.array(edges)) <= SCORE).any(axis=1)
    return Difference(
        float(boxes[paired, partner[paired]].max(initial=0)),
        float(scores[paired, partner[paired]].max(initial=0)),
        int((~tied).sum()),
        int(tied.sum()),
    )
