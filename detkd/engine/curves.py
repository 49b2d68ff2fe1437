"""Learning curves of a run, drawn from its log."""

from __future__ import annotations

from detkd.engine.run import RunFolder, read_log
from detkd.files import write_with


def plot_curves(run: RunFolder) -> None:
    """`plots/curves.png`: each loss over the steps (running mean), and mAP over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    lines = read_log(run)
    steps = [line for line in lines if line["kind"] == "train"]
    judgements = [line for line in lines if line["kind"] == "val"]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    names = [name for name in (steps[0] if steps else {}) if name not in ("kind", "step", "lr")]
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
    for name in ("AP", "AP50", "AP75"):
        points = [(line["epoch"], line[name]) for line in judgements if line[name] is not None]
        if points:
            right.plot(*zip(*points, strict=True), marker=".", label=name)
    right.set(xlabel="epoch", ylim=(0, 1), title="validation")
    right.legend(fontsize=8)
    right.grid(alpha=0.3)
    write_with(run.plots / "curves.png", lambda stream: figure.savefig(stream, dpi=110))
    plt.close(figure)
