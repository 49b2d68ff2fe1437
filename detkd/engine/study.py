"""A study: one training a row and seed, each run once, and their figures in one table.

A study file names configs of its folder and what each row changes in them:

    name: microalgae
    test: datasets/microalgae/test.json     # judged when a run has ended; may be left out
    rows:
      teacher: {config: teacher.yaml}
      plain: {config: student.yaml}
      pkd: {config: distill.yaml, set: {distill.losses: [{name: pkd, at: [p3]}]}}

A row that distils learns from the row `teacher` of the same seed, or from the one that it names as
its `teacher`; with `teacher_seed: 0` beside `name`, students of all seeds learn from that one, and
with `teacher: FILE` from that checkpoint, which another study has made. `gap: [plain, teacher]`,
beside `name` or in a row, names the rows between which it is told how much of the gap a row closes;
`[]` tells nothing. `set` beside `name` changes the configs of all rows, before each row's own. With
`command: train-cls` the rows are classifiers, judged on the test side of their own data.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from detkd.config import AnyExperiment
from detkd.data.dataset import read_coco
from detkd.engine.figures import KINDS, Kind
from detkd.engine.run import FREE_KEYS, NEW_KEYS
from detkd.errors import ConfigError
from detkd.files import digest_of, locked, write_atomic, write_json

Resolve = Callable[[list[str]], AnyExperiment]
GAP = ("plain", "teacher")
SETTINGS = "settings.txt"  # in a run folder: the digest of what it is trained with
JUDGED_OF_AN_IMAGE = ("id", "file_name", "width", "height")


@dataclass(frozen=True)
class Row:
    """One line of the table: a config, what is changed in it, and whom it learns from.

    `gap` names two rows; the table says how much of the way from one to the other this row goes.
    """

    config: str
    set: dict[str, Any] = field(default_factory=dict)
    teacher: str = "teacher"
    gap: Sequence[str] = GAP


@dataclass(frozen=True)
class Study:
    """What a study file says; `path` is the file."""

    path: Path
    name: str
    rows: dict[str, Row]
    test: Path | None = None
    teacher_seed: int | None = None
    teacher: str | None = None
    command: str = "train"

    @property
    def kind(self) -> Kind:
        return KINDS[self.command]

    @property
    def runs(self) -> Path:
        return Path("runs") / self.name

    @property
    def results(self) -> Path:
        return Path("docs/results") / f"{self.name}.json"


@dataclass(frozen=True)
class Task:
    """One training: the arguments of its command, and the training that has to be done first.

    `settings` is a digest of all that decides about its weights, the seed apart; `frames` are those
    without annotations that it learns from, if there are any.
    """

    row: str
    seed: int
    run: Path
    arguments: list[str]
    settings: str
    after: Task | None = None
    command: str = "train"
    frames: str | None = None

    @property
    def done(self) -> bool:
        """Whether its run has ended and was judged."""
        return (self.run / "metrics.json").is_file() and (self.run / "best.pt").is_file()

    def claim(self) -> None:
        """Write its settings into the run folder, or compare them with those that are there.

        Raises:
            ConfigError: the folder holds a run of other settings.
        """
        note = self.run / SETTINGS
        if self.run.is_dir() and (not note.is_file() or note.read_text() != self.settings):
            raise ConfigError(
                f"{self.run}: holds a run of other settings than row '{self.row}' has now; move it "
                "away, or give the row another name."
            )
        write_atomic(note, self.settings)


def read_study(path: Path) -> Study:
    """A study file, or the `study.yaml` of a folder.

    Raises:
        ConfigError: there is none, it is not YAML, or a key of it is unknown or missing.
    """
    path = path / "study.yaml" if path.is_dir() else path
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as a study ({why}).") from error
    if not isinstance(tree, dict) or not isinstance(tree.get("rows"), dict) or not tree["rows"]:
        raise ConfigError(f"{path}: is no study: it has no 'rows' with a name each.")
    known = ("name", "command", "test", "teacher", "teacher_seed", "gap", "set", "rows")
    _check_keys(tree, known, path, "")
    command = str(tree.get("command", "train"))
    if command not in KINDS or (command != "train" and tree.get("test")):
        raise ConfigError(
            f"{path}: command: is {' or '.join(KINDS)}; and 'test' names the truth of detectors: "
            "classifiers have the test side of their own data."
        )
    teacher_seed = tree.get("teacher_seed")
    if not isinstance(teacher_seed, int | None):
        raise ConfigError(f"{path}: teacher_seed: {teacher_seed!r} is no seed; give a number.")
    rows, shared = {}, _changes(tree, path, "")
    for name, row in tree["rows"].items():
        if not isinstance(row, dict) or "config" not in row:
            raise ConfigError(f"{path}: rows.{name}: names no 'config' of the study's folder.")
        _check_keys(row, [key.name for key in fields(Row)], path, f"rows.{name}.")
        changes = {**shared, **_changes(row, path, f"rows.{name}.")}
        rows[str(name)] = Row(**{"gap": tree.get("gap", GAP), **row, "set": changes})
    for name, each in rows.items():
        _check_gap(each, rows, f"{path}: rows.{name}.gap")
    test = tree.get("test")
    name = str(tree.get("name", path.parent.name))
    teacher = str(tree["teacher"]) if tree.get("teacher") else None
    return Study(path, name, rows, Path(test) if test else None, teacher_seed, teacher, command)


def plan(
    study: Study, seeds: Iterable[int], resolve: Resolve, rows: Sequence[str] = ()
) -> list[Task]:
    """The trainings of these rows (all, if none is named) and seeds, teachers first.

    `resolve` gives the experiment of the arguments of a training.

    Raises:
        ConfigError: a row that does not exist, or teachers that wait for each other.
    """
    tasks: dict[tuple[str, int], Task] = {}

    def add(name: str, seed: int, waiting: tuple[str, ...]) -> Task:
        if name not in study.rows:
            near = difflib.get_close_matches(name, study.rows, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(study.rows)}."
            raise ConfigError(f"{study.path}: no row '{name}'; {hint}")
        if name in waiting:
            raise ConfigError(f"{study.path}: rows.{name}: is its own teacher in the end.")
        if (name, seed) in tasks:
            return tasks[name, seed]
        row, run = study.rows[name], study.runs / f"{name}-{seed}"
        changes = {**row.set, "train.seed": seed, "name": f"{study.name}/{name}-{seed}"}
        arguments = ["--config", str(study.path.parent / row.config), "--run", str(run)]
        arguments += [f"--{key}={_word(value)}" for key, value in changes.items()]
        experiment = resolve(arguments)
        after = None
        if experiment.distill and study.teacher:
            arguments.append(f"--distill.teacher={study.teacher}")
        elif experiment.distill:
            its_seed = seed if study.teacher_seed is None else study.teacher_seed
            after = add(row.teacher, its_seed, (*waiting, name))
            arguments.append(f"--distill.teacher={after.run / 'best.pt'}")
        settings = _settings(experiment, after.settings if after else study.teacher or "")
        frames = getattr(experiment.data, "unlabelled", None)  # of detectors
        tasks[name, seed] = Task(name, seed, run, arguments, settings, after, study.command, frames)
        return tasks[name, seed]

    for seed in seeds:
        for name in rows or study.rows:
            add(name, seed, ())
    return list(tasks.values())


class Results:
    """The figures of a study, kept in a JSON file that grows with each run.

    `{"rows": {name: {"seeds": [...], "test_map": [one a seed], ..., "settings", "command"}}}`.
    What it holds need not be run again, even where the run folder is gone; a row whose settings
    have changed begins anew.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        # What each seed has; the rest is the same for all of them.
        self.a_seed = (*study.kind.scores.values(), *study.kind.besides)
        self.test = _digest_of(study.test)
        self.rows = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.study.results
        if not path.is_file():
            return {}
        try:
            tree = json.loads(path.read_text())
            rows: dict[str, dict[str, Any]] = tree["rows"]
            before = tree.get("test", self.test)
            for row in rows.values():
                for key in self.a_seed:  # scores that were not told when the row was run
                    row.setdefault(key, [None] * len(row["seeds"]))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path}: holds no results of a study ({error}); move it away."
            ) from error
        if self.test and before != self.test:
            raise ConfigError(
                f"{path}: its figures are of other test images or boxes than {self.study.test} "
                "holds now; put those back, or move the figures away."
            )
        return rows

    def holds(self, task: Task) -> bool:
        """Whether this training's figures are there."""
        row = self.rows.get(task.row, {})
        return row.get("settings") == task.settings and task.seed in row["seeds"]

    def add(self, task: Task, found: dict[str, Any]) -> None:
        """Keep a run's figures, in the order of the seeds, beside what others have added."""
        with locked(self.study.runs / ".results.lock", wait=True):
            self.rows = self._read()
            self._add(task, found)

    def _add(self, task: Task, found: dict[str, Any]) -> None:
        row = self.rows.get(task.row)
        if row is None or row["settings"] != task.settings:
            row = {"seeds": [], **{key: [] for key in self.a_seed}}
        at = sum(seed < task.seed for seed in row["seeds"])
        if task.seed not in row["seeds"]:
            for key in ("seeds", *self.a_seed):
                row[key].insert(at, None)
        row["seeds"][at] = task.seed
        for key, value in found.items():
            if key in self.a_seed:
                row[key][at] = value
            else:
                row[key] = value
        row.pop("interval", None)  # of the runs before, as are paired tests of them
        for each in (row, *self.rows.values()):
            if each is row or each.get("paired", {}).get("against") == task.row:
                each.pop("paired", None)
        row["settings"] = task.settings
        row["command"] = self._command([task.row], " ".join(map(str, row["seeds"])))
        self.rows[task.row] = row
        order = {name: at for at, name in enumerate(self.study.rows)}
        self.rows = dict(sorted(self.rows.items(), key=lambda item: order.get(item[0], len(order))))
        self._write()

    def _write(self) -> None:
        tree: dict[str, Any] = {"study": self.study.name, "rows": self.rows}
        if self.test:
            tree["test"] = self.test
        write_json(self.study.results, tree)

    def compare(self) -> None:
        """Add the interval of each row's test score, and its paired test against its plain row.

        The plain row is the first of the two of its gap. What is known of runs that are gone stays,
        and nothing is worked out twice on the same truth.
        """
        kind, test = self.study.kind, self.study.test
        of = {"truth": digest_of(test)[:16]} if test and test.is_file() else {}
        with locked(self.study.runs / ".results.lock", wait=True):
            self.rows = self._read()
            for name, row in self.rows.items():
                runs, plain = self._runs(name), self._plain(name)
                if row.get("paired", {}).get("against", plain) != plain:
                    del row["paired"]  # the study names another gap now
                against = self._runs(plain) if plain else []
                if runs:
                    _renew(row, "interval", of, partial(kind.interval, runs, test))
                if runs and against:
                    paired = partial(kind.paired, runs, against, test)
                    _renew(row, "paired", {"against": plain, **of}, paired)
            self._write()

    def _runs(self, name: str) -> list[Path]:
        """The runs of a row, of all its seeds; none where one is gone or has other settings."""
        row = self.rows[name]
        runs = [self.study.runs / f"{name}-{seed}" for seed in row["seeds"]]
        notes = [run / SETTINGS for run in runs]
        if all(note.is_file() and note.read_text() == row["settings"] for note in notes):
            return runs
        return []

    def _plain(self, name: str) -> str | None:
        """The row that this one is compared with."""
        gap = self.study.rows[name].gap if name in self.study.rows else ()
        return gap[0] if gap and gap[0] != name and gap[0] in self.rows else None

    def table(self) -> list[dict[str, str]]:
        """The rows as text: mean and sample standard deviation over seeds, share of the gap.

        Below a row whose network has exits there is a line for each of them (`row @ c2`).
        """
        kind = self.study.kind
        judged = any(value is not None for row in self.rows.values() for value in row[kind.test])
        score = kind.test if judged else kind.val
        means = {
            name: statistics.mean(values)
            for name, row in self.rows.items()
            if (values := [value for value in row[score] if value is not None])
        }
        return [
            {
                "row": name,
                "seeds": str(len(row["seeds"])),
                **{title: _spread(row[key]) for title, key in kind.scores.items()},
                "gap closed": self._closed(name, means),
                **_tested(row, self.rows, *kind.tested),
                **{title: text(row) for title, text in kind.costs.items()},
            }
            for name, row in self._lines()
        ]

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The lines of the table: each row, and below it its exits, trained by the same runs."""
        for name, row in self.rows.items():
            yield name, row
            found = [exits or {} for exits in row.get("exits", [])]
            for stage in dict.fromkeys(stage for exits in found for stage in exits):
                own = [exits.get(stage, {}) for exits in found]
                scores = self.study.kind.scores.values()
                yield (
                    f"{name} @ {stage}",
                    {
                        **next(exit_ for exit_ in own if exit_),  # its cost, alike for all seeds
                        **{key: [exit_.get(key) for exit_ in own] for key in scores},
                        **{key: row[key] for key in ("seeds", "seconds")},
                    },
                )

    def _closed(self, name: str, means: dict[str, float]) -> str:
        """How much of the way between its two rows a row goes."""
        gap = self.study.rows[name].gap if name in self.study.rows else ()
        if not gap or not {name, *gap} <= means.keys():
            return "-"
        low, high = (means[end] for end in gap)
        return f"{round(100 * (means[name] - low) / (high - low))}%" if high != low else "-"

    def commands(self) -> list[str]:
        """The commands that make the figures again, rows of the same seeds together."""
        rows_of: dict[str, list[str]] = {}
        for name, row in self.rows.items():
            rows_of.setdefault(" ".join(map(str, row["seeds"])), []).append(name)
        return [self._command(rows, seeds) for seeds, rows in rows_of.items()]

    def _command(self, rows: Sequence[str], seeds: str) -> str:
        path = self.study.path
        where = path.parent if path.name == "study.yaml" else path
        return f"detkd study {where} --rows {' '.join(rows)} --seeds {seeds}"


def slurm_script(study: Study, tasks: Sequence[Task]) -> str:
    """A shell script that hands the trainings to SLURM, those that wait for others after them."""
    command = f"detkd study {study.path}"
    stages: dict[int, list[Task]] = {}
    for task in tasks:
        stages.setdefault(_depth(task), []).append(task)
    lines = [
        "#!/bin/bash",
        "# Options of your cluster (partition, time, gres) go into SBATCH_*.",
        "",
    ]
    for depth, stage in sorted(stages.items()):
        after = f" --dependency=afterok:$stage{depth - 1}" if depth else ""
        words = " ".join(f"{task.row}:{task.seed}" for task in stage)
        lines += [
            f"stage{depth}=$(sbatch --parsable{after} --array=0-{len(stage) - 1} <<'END'",
            "#!/bin/bash",
            f"tasks=({words})",
            "task=${tasks[$SLURM_ARRAY_TASK_ID]}",
            f'srun {command} --rows "${{task%%:*}}" --seeds "${{task##*:}}" --no-table',
            "END",
            ")",
        ]
    last = max(stages)
    rows, seeds = _words(task.row for task in tasks), _words(str(task.seed) for task in tasks)
    lines += [
        f"sbatch --dependency=afterok:$stage{last} --wrap "
        f"'{command} --rows {rows} --seeds {seeds}'",
    ]
    return "\n".join(lines) + "\n"


def _word(value: Any) -> str:
    """A value as the command line takes it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _depth(task: Task) -> int:
    return 0 if task.after is None else 1 + _depth(task.after)


def _words(names: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(names))


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.3f}"
    return f"{mean} ± {statistics.stdev(known):.3f}" if len(known) > 1 else mean


def _renew(
    row: dict[str, Any], key: str, of: dict[str, Any], make: Callable[[], dict[str, Any] | None]
) -> None:
    """Put into a row what `make` says, where what it has is of something else than `of`."""
    known = row.get(key)
    if (known is None or not of.items() <= known.items()) and (told := make()):
        row[key] = {**of, **told}


def _tested(
    row: dict[str, Any], rows: dict[str, dict[str, Any]], title: str, key: str
) -> dict[str, str]:
    """The columns of intervals by sample of the score `key`, where any row has them."""
    columns = {}
    if any("interval" in each for each in rows.values()):
        limits = row.get("interval", {}).get(key)
        columns[f"{title}, 95 %"] = "{:.3f} to {:.3f}".format(*limits) if limits else "-"
    if any("paired" in each for each in rows.values()):
        line = row.get("paired", {}).get(key, {})
        between = "{:+.3f} to {:+.3f}".format(*line["interval"]) if line.get("interval") else ""
        columns["less plain, 95 %"] = f"{line['difference']:+.3f} ({between})" if between else "-"
    return columns


def _settings(experiment: AnyExperiment, teacher: str) -> str:
    """Digest of what decides about the weights, the seed and the places apart."""
    tree = experiment.as_dict()
    del tree["name"], tree["train"]["seed"]
    for part, key in FREE_KEYS:
        tree[part].pop(key, None)
    for (part, key), value in NEW_KEYS.items():
        if tree[part].get(key) == value:
            del tree[part][key]
    if not tree.get("self_distill"):
        tree.pop("self_distill", None)  # where it is not used, it decides nothing
    if tree["distill"]:
        tree["distill"]["teacher"] = teacher
    return _digest(tree)


def _digest_of(test: Path | None) -> str | None:
    """Digest of a test's images, boxes and classes; None where it is not there.

    Of the images only what is judged: which sample each is of may be added to them later.
    """
    if test is None or not test.is_file():
        return None
    document = read_coco(test)
    images = [[image.get(key) for key in JUDGED_OF_AN_IMAGE] for image in document["images"]]
    return _digest([images, document["annotations"], document["categories"]])


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]


def _check_gap(row: Row, rows: dict[str, Row], where: str) -> None:
    """Refuse a gap that is not between two rows; the usual one may be missing."""
    if row.gap == GAP or not row.gap:
        return
    if not isinstance(row.gap, list) or len(row.gap) != 2 or not set(row.gap) <= rows.keys():
        raise ConfigError(
            f"{where}: {row.gap!r} are not two rows; name two of {', '.join(rows)}, or none: []."
        )


def _changes(tree: dict[str, Any], path: Path, where: str) -> dict[str, Any]:
    """What `set` changes in a config."""
    changes = tree.get("set") or {}
    if not isinstance(changes, dict):
        raise ConfigError(f"{path}: {where}set: {changes!r} names no settings; write KEY: VALUE.")
    return changes


def _check_keys(tree: dict[str, Any], known: Sequence[str], path: Path, where: str) -> None:
    for key in tree:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            hint = f"did you mean '{where}{near[0]}'?" if near else f"there are {', '.join(known)}."
            raise ConfigError(f"{path}: unknown key '{where}{key}'; {hint}")
