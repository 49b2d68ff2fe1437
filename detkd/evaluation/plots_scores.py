"""Pictures of scores: F1 by the score that counting starts from, and how far to trust scores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.evaluation.canvas import STYLES, pyplot, save, written
from detkd.evaluation.case import Case
from detkd.evaluation.curves import score_curve
from detkd.evaluation.matching import match


def plot_f1(case: Case, path: Path) -> None:
    """F1 at overlap 0.5 over the score, a line a class."""
    figure, axis = pyplot().subplots(figsize=(6, 4.5), layout="constrained")
    for at, (name, matched) in enumerate(zip(case.names, match(case), strict=True)):
        curve = score_curve(matched)
        if not curve.truths or not len(curve.score):
            continue
        style = STYLES[at // 10 % len(STYLES)]
        axis.step(
            curve.score,
            curve.f1,
            style,
            where="post",
            label=f"{written(name)} {curve.f1.max():.2f}",
        )
    axis.set(xlabel="score from which on one counts", ylabel="F1", ylim=(0, 1.02))
    axis.grid(alpha=0.3)
    if axis.lines:
        axis.legend(fontsize=7, ncols=1 + len(axis.lines) // 12)
    save(figure, path)


def plot_reliability(calibration: dict[str, Any], path: Path) -> None:
    """Share of right detections over their score, and how many there are of each score."""
    known = [row for row in calibration["bins"] if row["detections"]]
    figure, (above, below) = pyplot().subplots(
        2, 1, figsize=(5, 5.5), layout="constrained", sharex=True, height_ratios=(3, 1)
    )
    above.plot([0, 1], [0, 1], "--", color="#888888", label="scores are chances")
    above.plot(
        [row["score"] for row in known],
        [row["right"] for row in known],
        "o-",
        color="#0072B2",
        label="measured",
    )
    error = calibration["ece"]
    above.set(
        ylabel="share that is right",
        ylim=(0, 1.02),
        title="no detections" if error is None else f"expected calibration error {error:.3f}",
    )
    above.legend(fontsize=8)
    below.bar(
        [(row["from"] + row["to"]) / 2 for row in calibration["bins"]],
        [row["detections"] for row in calibration["bins"]],
        0.09,
        color="#56B4E9",
    )
    below.set(xlabel="score", ylabel="detections", xlim=(0, 1))
    for axis in (above, below):
        axis.grid(alpha=0.3)
    save(figure, path)
