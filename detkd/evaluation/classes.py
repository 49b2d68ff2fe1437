"""How right a classifier is: as a whole, by class, and which classes it mistakes for which."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

SCORES = ("top1", "top5", "balanced_accuracy", "macro_f1")


def class_scores(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, float | None]:
    """The four scores of probabilities [N, K] against labels [N]; fractions from 0 to 1.

    - top1, top5: share of images whose class is the most probable one, or among the five;
    - balanced_accuracy: mean over the classes that occur of the share found of each;
    - macro_f1: mean of F1 over the classes that occur or were said.

    None where there is nothing to measure, and top5 where there are no more than five classes.
    """
    from sklearn.metrics import f1_score

    if not len(labels):
        return dict.fromkeys(SCORES)
    said = probabilities.argmax(1)
    found = [float((said[labels == each] == each).mean()) for each in np.unique(labels)]
    five = None
    if probabilities.shape[1] > 5:
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
        five = float((order == labels[:, None]).any(1).mean())
    return {
        "top1": float((said == labels).mean()),
        "top5": five,
        "balanced_accuracy": float(np.mean(found)),
        "macro_f1": float(f1_score(labels, said, average="macro", zero_division=0)),
    }


def per_class(
    probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Precision, recall, F1, truths and predictions of each class; None where there are none."""
    from sklearn.metrics import precision_recall_fscore_support

    said = probabilities.argmax(1)
    numbers = list(range(len(classes)))
    precision, recall, f1, truths = precision_recall_fscore_support(
        labels, said, labels=numbers, zero_division=0
    )
    predicted = np.bincount(said, minlength=len(classes))
    return {
        name: {
            "precision": float(precision[at]) if predicted[at] else None,
            "recall": float(recall[at]) if truths[at] else None,
            "f1": float(f1[at]) if truths[at] or predicted[at] else None,
            "truths": int(truths[at]),
            "predicted": int(predicted[at]),
        }
        for at, name in enumerate(classes)
    }


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images [K, K]: a row a true class, a column what was said."""
    from sklearn.metrics import confusion_matrix

    numbers = list(range(probabilities.shape[1]))
    return np.asarray(confusion_matrix(labels, probabilities.argmax(1), labels=numbers))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities along the last axis."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)
