"""Does a probability mean what it says? Calibration error, and the temperature that mends it."""

from __future__ import annotations

import numpy as np

from detkd.evaluation.classes import softmax

BINS = 15


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (Naeini et al., AAAI 2015; Guo et al., ICML 2017).

        ECE = Σ_b n_b/N · | share right in bin b − mean confidence in bin b |

    over bins of equal width of the confidence, the greatest probability of an image.
    """
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        abs(right[place == b].sum() - confidence[place == b].sum())
        for b in range(bins)
        if (place == b).any()
    ]
    return float(sum(gaps) / max(1, len(labels)))


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T for which softmax(z / T) fits the labels best (temperature scaling, Guo et al., 2017).

    It minimises the mean of −log p_y, for T from 0.05 to 20. Fit it on validation images: on those
    that are judged it would flatter. Which class is the most probable does not change.
    """
    from scipy.optimize import minimize_scalar

    def cost(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        top = scaled.max(1, keepdims=True)
        log_sum = np.log(np.exp(scaled - top).sum(1)) + top[:, 0]
        return float((log_sum - scaled[np.arange(len(labels)), labels]).mean())

    found = minimize_scalar(cost, bounds=(np.log(0.05), np.log(20.0)), method="bounded")
    return float(np.exp(found.x))


def reliability(
    probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS
) -> list[tuple[float, float, int]]:
    """(mean confidence, share right, images) of each bin that holds any."""
    confidence = probabilities.max(1)
    right = probabilities.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    return [
        (float(confidence[m].mean()), float(right[m].mean()), int(m.sum()))
        for m in (place == b for b in range(bins))
        if m.any()
    ]


def scaled(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities of logits at this temperature."""
    return softmax(logits / temperature)
