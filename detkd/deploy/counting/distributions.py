"""Gamma and Student's distributions, which scipy has and a device may not."""

from __future__ import annotations

import math
from statistics import NormalDist


def gamma_tails(shape: float, x: float) -> tuple[float, float]:
    """P and Q, the regularised incomplete gamma functions, P(a, x) + Q(a, x) = 1.

    Below a + 1 by the series of P, above by the continued fraction of Q (Lentz's algorithm), as in
    Press et al., Numerical Recipes, 6.2.
    """
    if x <= 0:
        return 0.0, 1.0
    front = math.exp(shape * math.log(x) - x - math.lgamma(shape))
    if x < shape + 1:
        term = total = 1 / shape
        at = shape
        while term > total * 1e-17:
            at += 1
            term *= x / at
            total += term
        below = min(1.0, front * total)
        return below, 1 - below
    tiny = 1e-300
    b = x + 1 - shape
    c, d = 1 / tiny, 1 / b
    fraction = d
    step, change = 0, 0.0
    while abs(change - 1) > 4e-16:
        step += 1
        a = -step * (step - shape)
        b += 2
        d = a * d + b
        d = 1 / (d if abs(d) > tiny else tiny)
        c = b + a / c
        c = c if abs(c) > tiny else tiny
        change = c * d
        fraction *= change
    above = min(1.0, front * fraction)
    return 1 - above, above


def gamma_quantile(shape: float, tail: float, *, upper: bool) -> float:
    """The x with P(a, x) = tail, or with Q(a, x) = tail for the upper one.

    Newton's steps from Wilson and Hilferty's approximation, inside a bracket that halves where a
    step would leave it.
    """
    z = NormalDist().inv_cdf(1 - tail if upper else tail)
    start = shape * (1 - 1 / (9 * shape) + z / (3 * math.sqrt(shape))) ** 3
    x = start if start > 0 else shape / 2
    low, high = 0.0, math.inf
    for _ in range(200):
        below, above = gamma_tails(shape, x)
        off = tail - above if upper else below - tail
        low, high = (x, high) if off < 0 else (low, x)
        log_density = (shape - 1) * math.log(x) - x - math.lgamma(shape)
        step = off * math.exp(min(700.0, -log_density))
        there = x - step
        if not low < there < high:
            there = (low + high) / 2 if high < math.inf else 2 * x
        if abs(there - x) <= 1e-14 * x:
            return there
        x = there
    return x


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's distribution (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
