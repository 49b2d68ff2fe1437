"""What stopping at an exit that is sure saves, and costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from detkd.evaluation.classes import class_scores, softmax


def stops(exit_logits: np.ndarray, threshold: float) -> np.ndarray:
    """The exit [N] at which each image stops, of logits [N, E, K] by depth; the last always is."""
    return _first(softmax(exit_logits).max(2), threshold)


def stopped(exit_logits: np.ndarray, threshold: float) -> np.ndarray:
    """The logits [N, K] with which each image stops, of logits [N, E, K] by depth."""
    return exit_logits[np.arange(len(exit_logits)), stops(exit_logits, threshold)]


def _first(sure: np.ndarray, threshold: float) -> np.ndarray:
    """The first exit [N] that is as sure as that, of confidences [N, E]; the last always is."""
    enough = sure >= threshold
    enough[:, -1] = True
    return enough.argmax(1)


def early_threshold(exit_logits: np.ndarray, labels: np.ndarray, *, loss: float = 0.005) -> float:
    """The lowest threshold at which top-1 stays within `loss` of the deepest exit's.

    Confidences that occur are tried, and infinity, which never stops early. Choose it on validation
    images.
    """
    right = exit_logits.argmax(2) == labels[:, None]  # [N, E]
    sure = softmax(exit_logits).max(2)
    rows = np.arange(len(labels))
    for threshold in np.unique(sure[:, :-1]):
        stopped = right[rows, _first(sure, threshold)]
        if stopped.mean() >= right[:, -1].mean() - loss - 1e-12:
            return float(threshold)
    return float("inf")


def early_table(
    exit_logits: np.ndarray,
    labels: np.ndarray,
    flops: Mapping[str, int],
    alone: int,
    threshold: float,
) -> dict[str, Any]:
    """Scores of each exit alone and of stopping early; shares of images, and saved operations.

    Args:
        exit_logits: [N, E, K] by depth.
        labels: [N].
        flops: operations until each exit, by its name and in the same order.
        alone: operations of the head without an exit on the way, of which is saved.
        threshold: from which an exit is sure.
    """
    at = stops(exit_logits, threshold)
    cost = np.array(list(flops.values()), dtype=float)
    return {
        "threshold": threshold if np.isfinite(threshold) else None,
        "exits": {
            name: {
                **class_scores(softmax(exit_logits[:, place]), labels),
                "flops": int(flops[name]),
                "share": float((at == place).mean()),
            }
            for place, name in enumerate(flops)
        },
        "early": class_scores(softmax(stopped(exit_logits, threshold)), labels),
        "flops": float(cost[at].mean()),
        "flops_alone": alone,
        "saved": float(1 - cost[at].mean() / alone),
    }
