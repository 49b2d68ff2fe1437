"""When a classifier had better say 'unknown': coverage against accuracy, and a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def coverage_curve(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, float]]:
    """Threshold, coverage (share of images that get a class) and accuracy of those.

    A point for each confidence that occurs, by falling threshold.
    """
    confidence = probabilities.max(1)
    right = (probabilities.argmax(1) == labels).astype(float)
    order = np.argsort(-confidence, kind="stable")
    sure, hits = confidence[order], right[order].cumsum()
    # Images of equal confidence are accepted together.
    last = np.flatnonzero(np.append(np.diff(sure) != 0, True)) if len(sure) else np.array([], int)
    return [
        {
            "threshold": float(sure[at]),
            "coverage": float((at + 1) / len(sure)),
            "accuracy": float(hits[at] / (at + 1)),
        }
        for at in last
    ]


def unknown_threshold(
    probabilities: np.ndarray, labels: np.ndarray, *, accuracy: float = 0.95
) -> float | None:
    """The lowest threshold from which on those that get a class are right with this share.

    Images below it are 'unknown'. Those that get a class are 1/(1 - accuracy) at least: among fewer
    a single wrong one would break the share, so that all being right shows nothing. None where no
    threshold reaches it. Choose it on validation images.
    """
    enough = [
        point["threshold"]
        for point in coverage_curve(probabilities, labels)
        if point["accuracy"] >= accuracy
        and point["coverage"] * len(labels) * (1 - accuracy) >= 1 - 1e-9
    ]
    return enough[-1] if enough else None


def at_threshold(
    probabilities: np.ndarray, labels: np.ndarray, threshold: float | None
) -> dict[str, Any]:
    """Coverage, and accuracy of what is covered, at a threshold; None covers nothing."""
    sure = probabilities.max(1) >= (np.inf if threshold is None else threshold)
    right = probabilities.argmax(1) == labels
    return {
        "threshold": threshold,
        "coverage": float(sure.mean()) if len(sure) else None,
        "accuracy": float(right[sure].mean()) if sure.any() else None,
    }


def of_foreign(
    known: np.ndarray, foreign: np.ndarray, classes: Sequence[str], threshold: float | None
) -> dict[str, Any]:
    """How images of classes that are none of the classifier's are told from others.

    `auroc` is the chance that one of them is less sure than one of a known class (ties count half);
    `rejected` the share that the threshold calls 'unknown', of each of their classes, too.

    Args:
        known, foreign: confidences, the greatest probability of each image.
        classes: what each of the foreign images shows.
        threshold: of 'unknown'; below None is everything.
    """
    from sklearn.metrics import roc_auc_score

    rejected = foreign < (np.inf if threshold is None else threshold)
    is_foreign = np.repeat([0, 1], [len(known), len(foreign)])
    shown = np.array(classes)
    return {
        "images": len(foreign),
        "rejected": float(rejected.mean()),
        "auroc": float(roc_auc_score(is_foreign, -np.concatenate([known, foreign]))),
        "per_class": {
            name: {
                "images": int((shown == name).sum()),
                "rejected": float(rejected[shown == name].mean()),
            }
            for name in dict.fromkeys(classes)
        },
    }
