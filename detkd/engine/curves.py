"""Learning curves, drawn from the logs of runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detkd.engine.run import RunFolder, read_log
from detkd.files import write_with


def _is_loss(name: str) -> bool:
    return name not in ("kind", "step", "lr") and not name.startswith("pull/")


def plot_courses(runs: Mapping[str, RunFolder], path: Path) -> None:
    """The validation mAP of several runs over their epochs, by their names."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for name, run in runs.items():
        points = [
            (line["epoch"], line["AP"])
            for line in read_log(run)
            if line["kind"] == "val" and line["AP"] is not None
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker=".", label=name)
    axis.set(xlabel="epoch", ylabel="mAP on the validation data", title="learning curves")
    if axis.lines:
        axis.legend(fontsize=8)
    axis.grid(alpha=0.3)
    write_with(path, lambda stream: figure.savefig(stream, dpi=110, format="png"))
    plt.close(figure)


def plot_curves(run: RunFolder) -> None:
    """`plots/curves.png`: each loss over the steps (running mean), and mAP over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = read_log(run)
    steps = [line for line in lines if line["kind"] == "train"]
    judgements = [line for line in lines if line["kind"] == "val"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = [name for name in (steps[0] if steps else {}) if _is_loss(name)]
    window = max(1, len(steps) // 100)
    for name in names:
        values = [line.get(name, float("nan")) for line in steps]
        means = [
            sum(values[at : at + window]) / len(values[at : at + window])
            for at in range(0, len(values), window)
        ]
        left.plot([steps[at]["step"] for at in range(0, len(values), window)], means, label=name)
    left.set(xlabel="step", ylabel="loss", yscale="log", title="losses (weighted, running mean)")
    if names:
        left.legend(fontsize=8)
    for name in ("AP", "AP50", "AP75", "balanced_accuracy", "top1", "macro_f1"):
        points = [(j["epoch"], j[name]) for j in judgements if j.get(name) is not None]
        if points:
            right.plot(*zip(*points, strict=True), marker=".", label=name)
    right.set(xlabel="epoch", ylim=(0, 1), title="validation")
    if right.lines:
        right.legend(fontsize=8)
    right.grid(alpha=0.3)
    write_with(run.plots / "curves.png", lambda stream: figure.savefig(stream, dpi=110))
    plt.close(figure)
