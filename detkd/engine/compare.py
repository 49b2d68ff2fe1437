"""Several runs judged on the same images, each once: what `detkd compare` and the demo show."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from detkd.engine.predict import open_for_judging, predict
from detkd.engine.profile import Cost, measure_cost
from detkd.errors import CheckpointError, DataError
from detkd.evaluation.coco_map import coco_map
from detkd.files import write_json


@dataclass(frozen=True)
class JudgedRun:
    """A run's best checkpoint on one ground truth; `scores` are COCO's 12 numbers."""

    run: Path
    backbone: str
    cost: Cost
    scores: dict[str, Any]
    found: list[dict[str, Any]]


def judge_run(run: Path, truth: Path) -> JudgedRun:
    """Judge `run`/best.pt on `truth`, or read it where it was judged before.

    What is kept under `run`/judged/ counts as long as checkpoint and truth are those it was made
    from, byte for byte.

    Raises:
        CheckpointError: the run has no checkpoint.
        DataError: the truth has other classes than the run.
    """
    checkpoint = run / "best.pt"
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such file; name a folder that a training wrote.")
    if not truth.is_file():
        raise DataError(f"{truth}: no such file; name a COCO ground truth.")
    stamp = {"checkpoint": _digest(checkpoint), "truth": _digest(truth)}
    kept = run / "judged" / f"{truth.stem}.json"
    tree = _read(kept)
    if tree.get("of") != stamp:
        tree = {"of": stamp, **_judge(checkpoint, truth)}
        write_json(kept, tree)
    return JudgedRun(
        run, tree["backbone"], Cost(**tree["cost"]), tree["scores"], tree["predictions"]
    )


def rows(judged: Sequence[JudgedRun]) -> list[dict[str, Any]]:
    """The table, a row a run; `kept` is the share of the first run's mAP."""
    best = judged[0].scores["AP"]
    names = short_names([run.run for run in judged])
    return [
        {
            "run": name,
            "backbone": run.backbone,
            "backbone_parameters": run.cost.backbone,
            "parameters": run.cost.parameters,
            "gflops": run.cost.gflops,
            "AP": run.scores["AP"],
            "AP50": run.scores["AP50"],
            "milliseconds": run.cost.milliseconds,
            "kept": run.scores["AP"] / best if best else None,
        }
        for name, run in zip(names, judged, strict=True)
    ]


def short_names(runs: Sequence[Path]) -> list[str]:
    """Names of the folders without the words in front that all of them share, each another.

    Folders of one name are told apart by the folders that they lie in, and a folder that is given
    twice by a number.
    """
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        names = ["/".join(run.parts[-2:]) for run in runs]
    else:
        words = [name.split("-") for name in names]
        same = takewhile(lambda column: len(set(column)) == 1, zip(*words, strict=False))
        shared = min(len(list(same)), min(map(len, words)) - 1)
        names = ["-".join(name[shared:]) for name in words]
    seen = Counter[str]()
    for at, name in enumerate(names):
        seen[name] += 1
        if seen[name] > 1:
            names[at] = f"{name} ({seen[name]})"
    return names


def _judge(checkpoint: Path, truth: Path) -> dict[str, Any]:
    detector, dataset = open_for_judging(checkpoint, truth)
    found = predict(detector, dataset)
    return {
        "backbone": detector.config.backbone,
        "cost": asdict(measure_cost(detector, dataset[0][0])),
        "scores": coco_map(dataset.truth, found)["coco"],
        "predictions": found,
    }


def _read(path: Path) -> dict[str, Any]:
    """What was kept, or nothing where it cannot be read: it is then made again."""
    try:
        tree = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
