"""A study: one training a row and seed, each run once, and their figures in one table.

A study file names configs of its folder and what each row changes in them:

    name: microalgae
    test: datasets/microalgae/test.json     # judged when a run has ended; may be left out
    rows:
      teacher: {config: teacher.yaml}
      plain: {config: student.yaml}
      pkd: {config: distill.yaml, set: {distill.losses: [{name: pkd, at: [p3]}]}}

A row that distils learns from the row `teacher` of the same seed, or from the one that it names as
its `teacher`. With `teacher_seed: 0` beside `name`, students of all seeds learn from that one, the
only one that is trained where no rows are named; with `teacher: FILE` from that checkpoint, which
another study has made. `gap: [plain, teacher]`, beside `name` or in a row, names the rows between
which it is told how much of the gap a row closes; `[]` tells nothing. On the test images a row is
compared with the first of the two, and with the lines of the table that it names as `against`.
`set` beside `name` changes the configs of all rows, before each row's own. With `command:
train-cls` the rows are classifiers, judged on the test side of their own data.
"""

from __future__ import annotations

import difflib
import json
import shlex
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from detkd.config import AnyExperiment, Experiment
from detkd.data.dataset import digest_of_sides
from detkd.distill.losses import source_from_outside
from detkd.engine.class_parts import digest_of_division
from detkd.engine.figures import KINDS, Kind
from detkd.engine.run import FREE_KEYS, NEW_KEYS, RunFolder
from detkd.errors import ConfigError
from detkd.files import digest_of, digest_of_tree, write_atomic

Resolve = Callable[[list[str]], AnyExperiment]
GAP = ("plain", "teacher")
AT = " @ "  # between a row and the exit that a line is about
SETTINGS = "settings.txt"  # in a run folder: the digest of what it is trained with


@dataclass(frozen=True)
class Row:
    """One line of the table: a config, what is changed in it, and whom it learns from.

    `gap` names two rows; the table says how much of the way from one to the other this row goes.
    `against` names lines, rows or `ROW @ EXIT`, that it is compared with besides the first of them.
    """

    config: str
    set: dict[str, Any] = field(default_factory=dict)
    teacher: str = "teacher"
    gap: Sequence[str] = GAP
    against: Sequence[str] = ()

    @property
    def compared(self) -> list[str]:
        """The lines that this row is compared with."""
        return list(dict.fromkeys([*self.gap[:1], *self.against]))


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
    without annotations that it learns from, if there are any; `data` is a digest of what is
    learned from and judged on, as far as it is there.
    """

    row: str
    seed: int
    run: Path
    arguments: list[str]
    settings: str
    after: Task | None = None
    command: str = "train"
    frames: str | None = None
    data: str | None = None

    @property
    def done(self) -> bool:
        """Whether its run has ended and was judged."""
        return (self.run / "metrics.json").is_file() and (self.run / "best.pt").is_file()

    def claim(self) -> None:
        """Write its settings into the run folder, or compare them with those that are there.

        Raises:
            ConfigError: the folder holds a run of other settings or data, or one that no study has
                begun.
        """
        note = self.run / SETTINGS
        if self.run.is_dir() and not note.is_file():
            raise ConfigError(
                f"{self.run}: holds a run that no study has begun; move it away, or give row "
                f"'{self.row}' another name. A teacher that is trained already is named in the "
                "study file: 'teacher: RUN/best.pt'."
            )
        if self.run.is_dir() and note.read_text() != self.settings:
            raise ConfigError(
                f"{self.run}: holds a run of other settings than row '{self.row}' has now; move it "
                "away, or give the row another name."
            )
        if not RunFolder(self.run).learned_from(self.data):
            raise ConfigError(
                f"{self.run}: row '{self.row}' was trained with other images or boxes for training "
                "or validation than there are now; put those back, or move the run away to train "
                "it anew."
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
        if AT in str(name):
            raise ConfigError(
                f"{path}: rows.{name}: '{AT}' stands before an exit; name it otherwise."
            )
        rows[str(name)] = Row(**{"gap": tree.get("gap", GAP), **row, "set": changes})
    for name, each in rows.items():
        _check_gap(each, rows, f"{path}: rows.{name}.gap")
        _check_against(each, rows, f"{path}: rows.{name}.against")
    test = tree.get("test")
    name = str(tree.get("name") or path.resolve().parent.name)
    teacher = str(tree["teacher"]) if tree.get("teacher") else None
    return Study(path, name, rows, Path(test) if test else None, teacher_seed, teacher, command)


def plan(
    study: Study, seeds: Iterable[int], resolve: Resolve, rows: Sequence[str] = ()
) -> list[Task]:
    """The trainings of these rows (all, if none is named) and seeds, teachers first.

    `resolve` gives the experiment of the arguments of a training. Teachers of one seed for all
    students are trained with others only where they are named.

    Raises:
        ConfigError: a row that does not exist, or teachers that wait for each other.
    """
    tasks: dict[tuple[str, int], Task] = {}
    known: dict[str, str | None] = {}

    def learned(experiment: AnyExperiment) -> str | None:
        """The digest of its images, which is the same for most rows."""
        key = repr(experiment.data)
        if key not in known:
            known[key] = (
                digest_of_sides(experiment.data.train, experiment.data.val)
                if isinstance(experiment, Experiment)
                else digest_of_division(experiment.data)
            )
        return known[key]

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
        settings = _settings(experiment, _taught_by(study, after))
        frames = getattr(experiment.data, "unlabelled", None)  # of detectors
        tasks[name, seed] = Task(
            name, seed, run, arguments, settings, after, study.command, frames, learned(experiment)
        )
        return tasks[name, seed]

    for seed in seeds:
        for name in rows or study.rows:
            add(name, seed, ())
    taught_by = {task.after.row for task in tasks.values() if task.after}
    once = set() if rows or study.teacher_seed is None else taught_by
    return [
        task for task in tasks.values() if task.row not in once or task.seed == study.teacher_seed
    ]


def line_of(row: str, exit_: str) -> str:
    """The table's line of an exit of a row."""
    return f"{row}{AT}{exit_}"


def row_of(line: str) -> str:
    """The row of a line, which may be that of an exit of it."""
    return line.partition(AT)[0]


def slurm_script(
    study: Study, tasks: Sequence[Task], seeds: Iterable[int], rows: Sequence[str] = ()
) -> str:
    """A shell script that hands the trainings to SLURM, those that wait for others after them.

    A student waits for its own teacher alone, and is given up where that one fails; the table is
    made when all have ended, of the rows and seeds from which the tasks were planned.
    """
    command = f"detkd study {shlex.quote(str(study.path))}"
    arrays: dict[tuple[str, int] | None, list[Task]] = {}  # by the task that they wait for
    for task in tasks:
        arrays.setdefault(_key(task.after), []).append(task)
    lines = [
        "#!/bin/bash",
        "# Options of your cluster (partition, time, gres) go into SBATCH_*.",
        "",
    ]
    place: dict[tuple[str, int] | None, str] = {}
    for at, (teacher, array) in enumerate(arrays.items()):
        waits = (
            f" --dependency=afterok:{place[teacher]} --kill-on-invalid-dep=yes" if teacher else ""
        )
        place |= {_key(task): f"${{job{at}}}_{number}" for number, task in enumerate(array)}
        words = " ".join(f"{shlex.quote(task.row)}:{task.seed}" for task in array)
        lines += [
            f"job{at}=$(sbatch --parsable{waits} --array=0-{len(array) - 1} <<'END'",
            "#!/bin/bash",
            f"tasks=({words})",
            "task=${tasks[$SLURM_ARRAY_TASK_ID]}",
            f'srun {command} --rows "${{task%:*}}" --seeds "${{task##*:}}" --no-table',
            "END",
            ")",
        ]
    table = f"{command} --table-only --seeds {_words(map(str, seeds))}"
    if rows:
        table += f" --rows {_words(map(shlex.quote, rows))}"
    ended = ":".join(f"$job{at}" for at in range(len(arrays)))
    lines += [f"sbatch --dependency=afterany:{ended} --wrap {shlex.quote(table)}"]
    return "\n".join(lines) + "\n"


def _key(task: Task | None) -> tuple[str, int] | None:
    return (task.row, task.seed) if task else None


def _word(value: Any) -> str:
    """A value as the command line takes it: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def _words(names: Iterable[str]) -> str:
    return " ".join(dict.fromkeys(names))


def _taught_by(study: Study, teacher: Task | None) -> str:
    """What stands for the teacher in a digest: its settings, and of which seed it is."""
    if teacher is None:
        return study.teacher or ""
    if study.teacher_seed == 0:  # told apart by nothing, as in the figures that there are
        return teacher.settings
    which = "each seed" if study.teacher_seed is None else f"seed {study.teacher_seed}"
    return f"{teacher.settings} of {which}"


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
        for term in tree["distill"]["losses"]:
            if source := source_from_outside(term["name"]):
                term["source"] = digest_of(source)
    return digest_of_tree(tree)


def _check_gap(row: Row, rows: dict[str, Row], where: str) -> None:
    """Refuse a gap that is not between two rows; the usual one may be missing."""
    if row.gap == GAP or not row.gap:
        return
    if not isinstance(row.gap, list) or len(row.gap) != 2 or not set(row.gap) <= rows.keys():
        raise ConfigError(
            f"{where}: {row.gap!r} are not two rows; name two of {', '.join(rows)}, or none: []."
        )


def _check_against(row: Row, rows: dict[str, Row], where: str) -> None:
    against = row.against
    if not isinstance(against, list | tuple) or not all(isinstance(each, str) for each in against):
        raise ConfigError(f"{where}: {against!r} is no list of names; name lines of the table.")
    for line in against:
        if (name := row_of(line)) not in rows:
            raise ConfigError(f"{where}: there is no row '{name}'; there are {', '.join(rows)}.")


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
