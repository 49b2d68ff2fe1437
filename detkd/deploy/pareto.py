"""Accuracy against time: which detectors are on the front, as a table and a picture.

A detector is on the front when none of the others is at least as fast and at least as accurate,
and better in one of the two (Pareto).
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detkd.deploy.onnx_model import OnnxNetwork, write_onnx
from detkd.errors import UserError
from detkd.evaluation.canvas import pyplot, save, written
from detkd.models.detector import Detector

WARM_UP = 3  # rounds that do not count
MARK = 4.0  # px from the middle of a point's mark to its side
STEPS = 12  # heights of a line that a name may be off its point


@dataclass(frozen=True)
class Point:
    """A detector's mAP, one a seed (or the only one), its ms a frame and its weights.

    `parameters` is None where nobody knows, and `ours` is False for a detector of another kind.
    """

    name: str
    scores: Sequence[float]
    ms: float
    parameters: int | None = None
    ours: bool = True

    @property
    def score(self) -> float:
        return statistics.mean(self.scores)

    @property
    def spread(self) -> float:
        """Sample standard deviation over seeds, 0 of a single one."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


def front(points: Sequence[Point]) -> list[Point]:
    """The points that no other one beats, the fastest first."""
    best = -1.0
    kept = []
    for point in sorted(points, key=lambda point: (point.ms, -point.score)):
        if point.score > best:
            kept.append(point)
            best = point.score
    return kept


Session = Callable[[np.ndarray], object]


def exported(detector: Detector, path: Path, threads: int) -> Session:
    """The detector's graph in ONNX Runtime, for frames [3, H, W]; the file stays at `path`."""
    write_onnx(detector, path)
    network = OnnxNetwork(path, threads=threads)
    return lambda frame: network(frame[None])


class Foreign:
    """Any detector's graph of one input [1, 3, H, W], for frames [3, H, W] of the size it takes.

    Raises:
        UserError: it cannot be read, or takes something else.
    """

    def __init__(self, path: Path, threads: int) -> None:
        try:
            self.network = OnnxNetwork(path, threads=threads)
        except Exception as error:  # onnxruntime has an exception of its own for each kind of fault
            raise UserError(f"{path}: cannot be read as an ONNX model ({_line(error)}).") from error
        inputs = self.network.session.get_inputs()
        shape = inputs[0].shape if len(inputs) == 1 else []
        is_float = len(inputs) == 1 and inputs[0].type == "tensor(float)"
        if len(shape) != 4 or shape[1] != 3 or not is_float:
            found = ", ".join(f"{each.name} {each.shape} of {each.type}" for each in inputs)
            raise UserError(
                f"{path}: takes {found}; only a model of one input [1, 3, H, W] of "
                "float32 can be timed."
            )
        self.sides = [length if isinstance(length, int) else None for length in shape[2:]]

    def __call__(self, frame: np.ndarray) -> list[np.ndarray]:
        """All outputs of one frame."""
        return self.network(frame[None])

    def fitted(self, frame: np.ndarray) -> np.ndarray:
        """A frame resized to what the graph takes: no part of its time, as reading is not."""
        size = [want or have for want, have in zip(self.sides, frame.shape[1:], strict=True)]
        batch = torch.from_numpy(frame)[None]
        return torch.nn.functional.interpolate(batch, size, mode="bilinear")[0].numpy()


def take_times(
    sessions: Sequence[Session],
    frames: Sequence[Sequence[np.ndarray]],
    rounds: int,
    progress: Callable[[str], object] = lambda said: None,
) -> list[float]:
    """Ms a frame of each session, which take turns on its own frames [3, H, W].

    The mean of the fastest quarter of the rounds: other work on the machine only ever makes a
    round longer.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(WARM_UP + rounds):
        progress(f"round {max(0, turn - WARM_UP + 1)} of {rounds}")
        for session, own, kept in zip(sessions, frames, times, strict=True):
            frame = own[turn % len(own)]
            began = time.perf_counter()
            session(frame)
            kept.append(1000 * (time.perf_counter() - began))
    return [statistics.mean(sorted(kept[WARM_UP:])[: max(1, rounds // 4)]) for kept in times]


def pareto_table(points: Sequence[Point], metric: str) -> list[list[str]]:
    """Lines of cells, the fastest detector first, the first line the titles."""
    best = {point.name for point in front(points)}
    table = [["", "parameters", "ms", metric, "seeds", "on the front"]]
    for point in sorted(points, key=lambda point: point.ms):
        score = f"{point.score:.3f}" + (f" ± {point.spread:.3f}" if point.spread else "")
        weights = "-" if point.parameters is None else f"{point.parameters:,}"
        seeds, on = str(len(point.scores)), "yes" if point.name in best else ""
        table.append([point.name, weights, f"{point.ms:.1f}", score, seeds, on])
    return table


def plot_pareto(points: Sequence[Point], metric: str, path: Path) -> None:
    """Write the picture as PNG: time to the right, on a logarithmic axis, and mAP upwards."""
    figure, axis = pyplot().subplots(figsize=(9, 6), layout="constrained")
    for ours, marker, label in ((True, "o", "detkd"), (False, "s", "others")):
        some = [point for point in points if point.ours == ours]
        if some:
            axis.errorbar(
                [point.ms for point in some],
                [point.score for point in some],
                yerr=[point.spread for point in some],
                fmt=marker,
                capsize=3,
                label=label,
            )
    best = front(points)
    axis.plot([p.ms for p in best], [p.score for p in best], ":", color="0.4", label="front")
    axis.set_xscale("log")
    axis.set_xlabel("ms a frame in ONNX Runtime")
    axis.set_ylabel(metric)
    axis.grid(alpha=0.3, which="both")
    axis.legend(loc="lower right")
    write_names(axis, [(written(p.name), p.ms, p.score) for p in points])
    save(figure, path)


def write_names(axis: Any, names: Sequence[tuple[str, float, float]]) -> list[Any]:
    """Write each name beside its point (x, y), where it covers no other name and no point.

    From left to right, each name takes the first free place: close to its point on one of eight
    sides, then further and further off, with a line to it. Where none is free, it takes the
    nearest one.
    """
    figure = axis.figure
    figure.canvas.draw()  # the places of all points are known from here on
    renderer, frame = figure.canvas.get_renderer(), axis.get_window_extent()
    places = axis.transData.transform([(x, y) for _, x, y in names])
    taken = [_around(x, y) for x, y in places]
    legend = axis.get_legend()
    taken += [legend.get_window_extent(renderer)] if legend else []
    texts = []
    for at in sorted(range(len(names)), key=lambda at: (*places[at], names[at][0])):
        name, x, y = names[at]
        size = axis.annotate(name, (x, y), in_layout=False).get_window_extent(renderer)
        axis.texts[-1].remove()
        boxes = [
            (far, size.from_bounds(*corner, size.width, size.height))
            for far, corner in _places_beside(places[at], size.width, size.height)
        ]
        free = (
            each for each in boxes if _inside(each[1], frame) and not each[1].count_overlaps(taken)
        )
        far, box = next(free, boxes[0])
        offset = (box.min - places[at]) * 72 / figure.dpi
        line = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6, "shrinkA": 0, "shrinkB": 3}
        texts.append(
            axis.annotate(
                name,
                (x, y),
                xytext=tuple(offset),
                textcoords="offset points",
                arrowprops=line if far else None,
                in_layout=False,  # nothing moves any more
            )
        )
        taken.append(box)
    return texts


def _around(x: float, y: float) -> Any:
    """The square of px that a point's mark covers."""
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(x - MARK, y - MARK, x + MARK, y + MARK)


def _places_beside(
    point: np.ndarray, width: float, height: float
) -> list[tuple[int, tuple[float, float]]]:
    """Lower left corners of a text beside a point, the nearest first, and how many steps off."""
    (x, y), found = point, []
    for far in range(STEPS):
        gap = MARK + 2 + far * height
        right, left, middle = x + gap, x - gap - width, x - width / 2
        above, below, level = y + gap, y - gap - height, y - height / 2
        near = [(right, above), (right, below), (left, above), (left, below)]
        straight = [(right, level), (left, level), (middle, above), (middle, below)]
        found += [(far, corner) for corner in (*near, *straight)]
    return found


def _inside(box: Any, frame: Any) -> bool:
    return bool(
        frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
    )


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
