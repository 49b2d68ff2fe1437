"""Several runs judged on the same images, each once: what `detkd compare` and the demo show."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from detkd.coco_json import read_json
from detkd.engine.predict import open_for_judging, predict
from detkd.engine.profile import Cost, measure_cost
from detkd.engine.run import RunFolder, read_log
from detkd.errors import CheckpointError, DataError
from detkd.evaluation.case import Case, build_case
from detkd.evaluation.coco_map import coco_map
from detkd.evaluation.paired import enough_draws, holm, paired_means
from detkd.evaluation.results import check_truth
from detkd.evaluation.welch import welch_interval
from detkd.files import digest_of, write_json

# Counts up whenever a checkpoint may find other things than before (2: no mixed batches).
JUDGING = 2


@dataclass(frozen=True)
class JudgedRun:
    """A run's best checkpoint on one ground truth; `scores` are COCO's 12 numbers."""

    run: Path
    backbone: str
    cost: Cost
    scores: dict[str, Any]
    found: list[dict[str, Any]]


def validation_of(runs: Sequence[Path]) -> Path:
    """The validation data that all runs have in common, as their configs say.

    Raises:
        DataError: a run does not say, or they have had different ones.
    """
    found: dict[str, Path] = {}
    for run in runs:
        try:
            named = yaml.safe_load(RunFolder(run).config.read_text(encoding="utf-8"))["data"]["val"]
        except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
            raise DataError(
                f"{RunFolder(run).config}: does not say on what {run} was validated; name the "
                "ground truth with --gt."
            ) from error
        if named is None:
            raise DataError(
                f"{RunFolder(run).config}: names no validation data, as a classifier's may: those "
                "are compared by 'detkd eval-cls --checkpoint BEST.PT --against RUN'. Of detectors "
                "--gt names the ground truth."
            )
        found.setdefault(str(named), run)
    if len(found) > 1:
        (one, first), (other, second) = list(found.items())[:2]
        raise DataError(
            f"{first} was validated on {one} and {second} on {other}; name the ground truth for "
            "all of them with --gt."
        )
    return Path(next(iter(found)))


def judge_run(run: Path, truth: Path) -> JudgedRun:
    """Judge `run`/best.pt on `truth`, or read it where it was judged before.

    What is kept under `run`/judged/ counts as long as checkpoint and truth are those it was made
    from, byte for byte, and images are judged as they were then.

    Raises:
        CheckpointError: the run has no checkpoint.
        DataError: the truth has other classes than the run.
    """
    checkpoint = run / "best.pt"
    if not checkpoint.is_file():
        raise CheckpointError(f"{checkpoint}: no such file; name a folder that a training wrote.")
    if not truth.is_file():
        raise DataError(f"{truth}: no such file; name a COCO ground truth.")
    stamp = {"checkpoint": digest_of(checkpoint), "truth": digest_of(truth), "judging": JUDGING}
    kept = _kept(run, truth)
    tree = _read(kept)
    if tree.get("of") != stamp:
        tree = {"of": stamp, **_judge(checkpoint, truth)}
        write_json(kept, tree)
    return JudgedRun(
        run, tree["backbone"], Cost(**tree["cost"]), tree["scores"], tree["predictions"]
    )


def cases_of(judged: Sequence[JudgedRun], truth: Path) -> list[Case]:
    """What each run has found on `truth`, ready to be tested.

    Raises:
        DataError: the truth or the detections kept of a run cannot be used.
    """
    document = check_truth(read_json(truth, "name a COCO ground truth"), truth)
    return [build_case(document, run.found, _kept(run.run, truth)) for run in judged]


Rows = dict[str, list[JudgedRun]]  # the runs of each row of the table, by the row's name


def by_row(judged: Sequence[JudgedRun], *, by_seed: bool = False) -> Rows:
    """A row a run; with `by_seed`, runs whose names differ in a number at their end are one."""
    if not by_seed:
        names = short_names([run.run for run in judged])
        return {name: [run] for name, run in zip(names, judged, strict=True)}
    seeds: dict[Path, list[JudgedRun]] = {}
    for run in judged:
        row = run.run.with_name(re.sub(r"-\d+$", "", run.run.name))
        seeds.setdefault(row, []).append(run)
    return dict(zip(short_names(list(seeds)), seeds.values(), strict=True))


def paired_rows(
    groups: Rows, truth: Path, *, plain: Path | None = None, draws: int | None = None
) -> dict[str, Any]:
    """The paired test of each row against that of the run `plain`, or else the first row.

    A row of several seeds is the mean of its runs (see `paired_means`): what is said holds for
    these trainings on other samples. `against` is the row's name, `rows` what `detkd eval
    --against` says of each other row, with `p_adjusted` beside its p-value of AP: Holm's, for the
    number of rows. Where no number of `draws` is given, there are as many as `detkd eval` takes.

    Raises:
        DataError: the truth or the detections kept of a run cannot be used.
    """
    cases = {name: cases_of(group, truth) for name, group in groups.items()}
    against = _row_of(plain, groups) or next(iter(groups))
    draws = draws or enough_draws(cases[against][0])
    tests = {
        name: paired_means(case, cases[against], draws=draws)
        for name, case in cases.items()
        if name != against
    }
    told = [test["AP"] for test in tests.values() if test["AP"]["p"] is not None]
    for line, p in zip(told, holm([line["p"] for line in told]), strict=True):
        line["p_adjusted"] = p
    return {"against": against, "rows": tests}


def rows(
    groups: Rows,
    *,
    plain: Path | None = None,
    tests: Mapping[str, Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    """The table of these rows; `kept` is the share of the first row's mAP.

    With the run of a `plain` student, `closed` is the share of the gap between its row and the
    first. Of several runs the row has means; `spread` is the sample standard deviation of their
    mAP. `tests` are the paired tests by row, of which the table has what is said of AP; beside it
    `over_seeds` is the difference's interval for other trainings on the same samples.
    """
    scores = {name: _known(group, "AP") for name, group in groups.items()}
    means = {name: _mean(group, "AP") for name, group in groups.items()}
    best = next(iter(means.values()))
    below = _row_of(plain, groups)
    low = None if below is None else means[below]
    against = scores[below or next(iter(groups))]
    table = []
    for name, group in groups.items():
        first, score = group[0], means[name]
        test = (tests or {}).get(name, {}).get("AP", {})
        closed = None
        if low is not None and best is not None and score is not None and best != low:
            closed = (score - low) / (best - low)
        table.append(
            {
                "run": name,
                "runs": len(group),
                "backbone": first.backbone,
                "backbone_parameters": first.cost.backbone,
                "parameters": first.cost.parameters,
                "gflops": first.cost.gflops,
                "AP": score,
                "spread": statistics.stdev(scores[name]) if len(scores[name]) > 1 else None,
                "AP50": _mean(group, "AP50"),
                "milliseconds": statistics.mean(run.cost.milliseconds for run in group),
                "kept": score / best if best and score is not None else None,
                "closed": closed,
                **{key: test.get(key) for key in ("difference", "interval", "p", "p_adjusted")},
                "over_seeds": welch_interval(scores[name], against) if test else None,
                "seconds": statistics.mean(_seconds(run.run) for run in group),
            }
        )
    return table


def _row_of(run: Path | None, groups: Rows) -> str | None:
    """The name of the row that a run is in."""
    return next((n for n, group in groups.items() if run in [each.run for each in group]), None)


def _kept(run: Path, truth: Path) -> Path:
    """Where is kept what a run has found on a truth."""
    return run / "judged" / f"{truth.stem}.json"


def _mean(group: Sequence[JudgedRun], key: str) -> float | None:
    known = _known(group, key)
    return statistics.mean(known) if known else None


def _known(group: Sequence[JudgedRun], key: str) -> list[float]:
    return [run.scores[key] for run in group if run.scores[key] is not None]


def _seconds(run: Path) -> float:
    """How long the training took, as its log says."""
    return max((line.get("seconds", 0.0) for line in read_log(RunFolder(run))), default=0.0)


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
