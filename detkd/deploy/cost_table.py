"""What detectors cost, part by part, measured side by side, and the tables of it."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from detkd.deploy.onnx_times import OnnxTimes
from detkd.deploy.torch_times import POOL, torch_times
from detkd.models.costs import PARTS, flops_by_part, parameters_by_part
from detkd.models.detector import Detector

WARM_UP = 2  # rounds that do not count
RUNTIMES = {"torch": "torch", "onnx": "ONNX Runtime"}


@dataclass
class Candidate:
    """A detector to be measured, under the name that it has in the table; `frames` [3, H, W]."""

    name: str
    detector: Detector
    frames: Sequence[Tensor]


def measure(
    candidates: Sequence[Candidate],
    *,
    repeats: int,
    threads: int = 1,
    onnx: bool = True,
    progress: Callable[[str], object] = lambda said: None,
) -> list[dict[str, Any]]:
    """The costs of each candidate, as a JSON document has them, in ms.

    All candidates take turns, in torch and in ONNX Runtime, frame by frame, so that a machine that
    slows down slows all of them; what `undisturbed` makes of the rounds is kept.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with tempfile.TemporaryDirectory(prefix="detkd-cost-") as folder:
            exported = []
            for each in candidates:
                each.detector.cpu().eval()
                if onnx:
                    progress(f"writing the graph of {each.name}")
                    exported.append(OnnxTimes(each.detector, Path(folder), threads=threads))
            in_torch: list[list[dict[str, float]]] = [[] for _ in candidates]
            for turn in range(WARM_UP + repeats):
                progress(f"round {max(0, turn - WARM_UP + 1)} of {repeats}")
                for at, each in enumerate(candidates):
                    frame = each.frames[turn % len(each.frames)]
                    in_torch[at].append(torch_times(each.detector, frame))
                    if onnx:
                        exported[at](frame.numpy())
            in_onnx = [each.times() for each in exported] or [[] for _ in candidates]
    finally:
        torch.set_num_threads(before)
    return [
        {
            "name": each.name,
            "model": vars(each.detector.config),
            "classes": len(each.detector.classes),
            "frame": list(each.frames[0].shape[1:]),
            "parameters": parameters_by_part(each.detector),
            "flops": flops_by_part(each.detector, each.frames[0]),
            **_counts(each.detector, each.frames),
            **{
                f"{runtime}_ms": undisturbed(runs[WARM_UP:])
                for runtime, runs in (("torch", ours), ("onnx", theirs))
                if runs
            },
        }
        for each, ours, theirs in zip(candidates, in_torch, in_onnx, strict=True)
    ]


def undisturbed(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean ms by part over the quarter of the runs (seconds) with the shortest whole time.

    Other work on the machine only ever makes a run longer, so that the shortest ones say what a
    run takes, and their parts add up. `whole` is the sum of the parts, `spread` how much longer
    the longest of the quarter is than the shortest, `median` that of the whole over all runs.
    """
    ordered = sorted(runs, key=lambda run: sum(run.values()))
    sums = [1000 * sum(run.values()) for run in ordered]
    count = max(1, len(ordered) // 4)
    parts = {part: 1000 * statistics.mean(run[part] for run in ordered[:count]) for part in PARTS}
    return {
        **parts,
        "whole": sum(parts.values()),
        "spread": sums[count - 1] / sums[0] - 1,
        "median": statistics.median(sums),
    }


def document(
    rows: Sequence[Mapping[str, Any]], *, frames: str, threads: int, repeats: int
) -> dict[str, Any]:
    """What is written as JSON; `measured` says in a sentence how."""
    spreads = [row[f"{name}_ms"]["spread"] for row in rows for name in _runtimes(row)]
    short = [
        f"{row['name']}: {row['proposals']:.0f} of {row['model']['proposals']}"
        for row in rows
        if row["proposals"] < row["model"]["proposals"]
    ]
    return {
        "measured": (
            f"On {frames}, {threads} {'thread' if threads == 1 else 'threads'}, {repeats} rounds "
            f"that take turns; mean of the fastest quarter, whose slowest run takes up to "
            f"{max(spreads):.0%} more than its fastest. Proposals in torch: "
            + (f"those of the config, but for {'; '.join(short)}." if short else "the config's.")
        ),
        "threads": threads,
        "repeats": repeats,
        "versions": {name: metadata.version(name) for name in ("torch", "torchvision")}
        | ({"onnxruntime": metadata.version("onnxruntime")} if "onnx_ms" in rows[0] else {}),
        "rows": list(rows),
    }


@torch.no_grad()
def _counts(detector: Detector, frames: Sequence[Tensor]) -> dict[str, float]:
    """Mean numbers of the proposals that the RoI head is given, and of detections."""
    given: list[int] = []
    hook = detector.get_submodule(POOL).register_forward_hook(
        lambda _, inputs, __: given.append(len(inputs[1][0]))
    )
    try:
        found = [len(detector([frame])[0]["boxes"]) for frame in frames]
    finally:
        hook.remove()
    return {"proposals": statistics.mean(given), "detections": statistics.mean(found)}


def _runtimes(row: Mapping[str, Any]) -> list[str]:
    return [name for name in RUNTIMES if f"{name}_ms" in row]


Table = list[list[str]]  # lines of cells, the first one the titles


def tables(rows: Sequence[Mapping[str, Any]]) -> list[Table]:
    """If there are several, all side by side, whole and by part; and the first one by itself."""
    several = [wholes(rows), *(parts(rows, name) for name in _runtimes(rows[0])[::-1])]
    return [*(several if len(rows) > 1 else []), by_itself(rows[0])]


def wholes(rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line each, with its time as a share of the first one's in the last runtime."""
    runtimes = _runtimes(rows[0])
    titles = ["", "parameters", "MFLOPs", *(f"{RUNTIMES[name]} ms" for name in runtimes)]
    table = [[*titles, "of the first"]]
    for row in rows:
        ms = [row[f"{name}_ms"]["whole"] for name in runtimes]
        cells = [row["name"], f"{sum(row['parameters'].values()):,}"]
        cells += [f"{sum(row['flops'].values()) / 1e6:.0f}", *(f"{each:.1f}" for each in ms)]
        table.append([*cells, f"{ms[-1] / rows[0][f'{runtimes[-1]}_ms']['whole']:.0%}"])
    return table


def parts(rows: Sequence[Mapping[str, Any]], runtime: str) -> Table:
    """A line each, with the ms of its parts."""
    table = [[f"{RUNTIMES[runtime]} ms", *PARTS.values(), "whole"]]
    for row in rows:
        ms = row[f"{runtime}_ms"]
        table.append([row["name"], *(f"{ms[part]:.1f}" for part in (*PARTS, "whole"))])
    return table


def by_itself(row: Mapping[str, Any]) -> Table:
    """A line a part, with its shares of the whole."""
    runtimes = _runtimes(row)
    titles = [row["name"], "parameters", "MFLOPs"]
    table = [[*titles, *(cell for name in runtimes for cell in (f"{RUNTIMES[name]} ms", "share"))]]
    for part, title in {**PARTS, "whole": "whole"}.items():
        weights, flops = (
            sum(row[key].values()) if part == "whole" else row[key][part]
            for key in ("parameters", "flops")
        )
        cells = [title, f"{weights:,}" if weights else "-", f"{flops / 1e6:.1f}" if flops else "-"]
        for name in runtimes:
            ms = row[f"{name}_ms"]
            cells += [f"{ms[part]:.2f}", f"{ms[part] / ms['whole']:.0%}"]
        table.append(cells)
    return table
