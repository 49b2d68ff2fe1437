"""The figures of a study and its table: scores by seed, shares of the gap, intervals, tests."""

from __future__ import annotations

import json
import shlex
import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from detkd.data.dataset import digest_of_coco, read_coco
from detkd.engine.figures import Line
from detkd.engine.study import AT, SETTINGS, Study, Task, line_of, row_of
from detkd.errors import ConfigError
from detkd.evaluation.paired import holm
from detkd.evaluation.welch import welch_interval
from detkd.files import digest_of, locked, write_json


class Results:
    """The figures of a study, kept in a JSON file that grows with each run.

    `{"rows": {name: {"seeds": [...], "test_map": [one a seed], ..., "settings", "command"}}}`.
    What it holds need not be run again, even where the run folder is gone; a row whose settings
    have changed begins anew, as does one whose images or boxes have, where it says which it had
    ("data").
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        # What each seed has; the rest is the same for all of them.
        self.a_seed = (*study.kind.scores.values(), *study.kind.besides)
        self.test = _digest_of(study.test)
        self.known_test: str | None = None  # that the figures are of, where the test is not there
        self.rows = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        path = self.study.results
        if not path.is_file():
            return {}
        try:
            tree = json.loads(path.read_text())
            rows: dict[str, dict[str, Any]] = tree["rows"]
            self.known_test = before = tree.get("test", self.test)
            for row in rows.values():
                for key in self.a_seed:  # scores that were not told when the row was run
                    row.setdefault(key, [None] * len(row["seeds"]))
                if isinstance(row.get("paired"), dict):  # before there could be several
                    row["paired"] = [row["paired"]]
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
        """Whether this training's figures are there, those of the test among them."""
        row = self.rows.get(task.row, {})
        if not _is_of(row, task) or task.seed not in row["seeds"]:
            return False
        return (
            self.test is None
            or row[self.study.kind.test][row["seeds"].index(task.seed)] is not None
        )

    def add(self, task: Task, found: dict[str, Any]) -> None:
        """Keep a run's figures, in the order of the seeds, beside what others have added."""
        with locked(self.study.runs / ".results.lock", wait=True):
            self.rows = self._read()
            self._add(task, found)

    def _add(self, task: Task, found: dict[str, Any]) -> None:
        row = self.rows.get(task.row)
        if row is None or not _is_of(row, task):
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
        for key in ("interval", "exit_intervals", "paired"):  # of the runs before
            row.pop(key, None)
        for each in self.rows.values():
            known = each.get("paired", [])
            _put(each, "paired", [one for one in known if row_of(one["against"]) != task.row])
        row["settings"] = task.settings
        if task.data:
            row["data"] = task.data
        row["command"] = self._command([task.row], " ".join(map(str, row["seeds"])))
        self.rows[task.row] = row
        order = {name: at for at, name in enumerate(self.study.rows)}
        self.rows = dict(sorted(self.rows.items(), key=lambda item: order.get(item[0], len(order))))
        self._write()

    def _write(self) -> None:
        tree: dict[str, Any] = {"study": self.study.name, "rows": self.rows}
        if test := self.test or self.known_test:
            tree["test"] = test
        write_json(self.study.results, tree)

    def compare(self) -> None:
        """Add the interval of each line's test score, and rows' paired tests (see `Row.compared`).

        What is known of runs that are gone stays; nothing is worked out twice on the same truth.
        """
        test = self.study.test
        of = {"truth": digest_of(test)[:16]} if test and test.is_file() else {}
        with locked(self.study.runs / ".results.lock", wait=True):
            self.rows = self._read()
            for name, row in self.rows.items():
                line = self._line(name)
                _put(row, "interval", self._interval(line, row.get("interval"), of))
                _put(row, "exit_intervals", self._exit_intervals(name, of))
                known = {each["against"]: each for each in row.get("paired", [])}
                tests = (
                    self._paired(line, other, known.get(other), of) for other in self._others(name)
                )
                _put(row, "paired", [each for each in tests if each])
            self._write()

    def _interval(
        self, line: Line | None, known: dict[str, Any] | None, of: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The interval of a line's test score."""
        make = partial(self.study.kind.interval, line, self.study.test) if line else None
        return _renewed(known, of, make)

    def _exit_intervals(self, name: str, of: dict[str, Any]) -> dict[str, Any]:
        """The interval of each exit's line, by the exit's name."""
        row = self.rows[name]
        known = row.get("exit_intervals", {})
        found = {
            stage: self._interval(self._line(line_of(name, stage)), known.get(stage), of)
            for stage in _exits(row)
        }
        return {stage: interval for stage, interval in found.items() if interval}

    def _paired(
        self, line: Line | None, other: str, known: dict[str, Any] | None, of: dict[str, Any]
    ) -> dict[str, Any] | None:
        """The paired test of a line against another one."""
        theirs, make = self._line(other), None
        if line and theirs:
            make = partial(self.study.kind.paired, line, theirs, self.study.test)
        return _renewed(known, {"against": other, **of}, make)

    def _others(self, name: str) -> list[str]:
        """The lines that a row is compared with."""
        compared = self.study.rows[name].compared if name in self.study.rows else []
        return [each for each in compared if each != name and row_of(each) in self.rows]

    def _line(self, name: str) -> Line | None:
        """The runs of a line, of all seeds; None where one is gone or has other settings."""
        of, _, exit_ = name.partition(AT)
        row = self.rows[of]
        runs = [self.study.runs / f"{of}-{seed}" for seed in row["seeds"]]
        notes = [run / SETTINGS for run in runs]
        if not all(note.is_file() and note.read_text() == row["settings"] for note in notes):
            return None
        if not exit_:
            return Line(runs)
        exits = _exits(row)
        if exit_ in exits:
            return Line(runs, exits.index(exit_))
        there = ", ".join(exits) or "none"
        print(f"{self.study.path}: against '{name}': '{of}' has no such exit; there are {there}.")
        return None

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
                **self._tested(name, row),
                **{title: text(row) for title, text in kind.costs.items()},
            }
            for name, row in self._lines()
        ]

    def _tested(self, name: str, row: dict[str, Any]) -> dict[str, str]:
        """A line's columns of intervals by sample, where any row has them."""
        title, key = self.study.kind.tested
        columns = {}
        if any("interval" in each for each in self.rows.values()):
            limits = row.get("interval", {}).get(key)
            columns[f"{title}, 95 %"] = "{:.3f} to {:.3f}".format(*limits) if limits else "-"
        if any("paired" in each for each in self.rows.values()):
            plain = self.study.rows[name].gap[:1] if name in self.study.rows else ()
            lines = [each[key] for each in row.get("paired", []) if each["against"] in plain]
            known = [line for line in lines if line["p"] is not None]
            columns["less plain, 95 %"] = _difference(known[0]) if known else "-"
        return columns

    def differences(self) -> list[dict[str, str]]:
        """The paired tests that are asked for by `against`, as text; empty where there are none.

        `p of all` is Holm's for the number that is asked for. What other seeds would change is in
        `over seeds` alone, on these images.
        """
        title, key = self.study.kind.tested
        told = [
            (name, each["against"], each[key])
            for name, row in self.rows.items()
            for each in row.get("paired", [])
            if name in self.study.rows and each["against"] in self.study.rows[name].against
            if each[key]["p"] is not None
        ]
        # Those that have not been run yet are among the tests, too.
        asked = sum(len(row.against) for row in self.study.rows.values())
        chances = holm([line["p"] for _, _, line in told] + [1.0] * (asked - len(told)))
        of_seed = {
            name: [value for value in line[self.study.kind.test] if value is not None]
            for name, line in self._lines()
        }
        return [
            {
                "row": name,
                "less": other,
                f"difference of {title}, 95 %": _difference(line),
                "over seeds, 95 %": _limits(welch_interval(of_seed[name], of_seed[other])) or "-",
                "p": f"{line['p']:.3f}",
                "p of all": f"{of_all:.3f}",
            }
            for (name, other, line), of_all in zip(told, chances, strict=False)
        ]

    def _lines(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The lines of the table: each row, and below it its exits, trained by the same runs."""
        for name, row in self.rows.items():
            yield name, row
            found = [exits or {} for exits in row.get("exits", [])]
            for stage in _exits(row):
                own = [exits.get(stage, {}) for exits in found]
                interval = row.get("exit_intervals", {}).get(stage)
                scores = self.study.kind.scores.values()
                yield (
                    line_of(name, stage),
                    {
                        **next(exit_ for exit_ in own if exit_),  # its cost, alike for all seeds
                        **{key: [exit_.get(key) for exit_ in own] for key in scores},
                        **{key: row[key] for key in ("seeds", "seconds")},
                        **({"interval": interval} if interval else {}),
                    },
                )

    def _closed(self, name: str, means: dict[str, float]) -> str:
        """How much of the way between its two rows a row goes.

        Nothing where it does not go up, or is not shown to: a share of what may be nothing.
        """
        gap = self.study.rows[name].gap if name in self.study.rows else ()
        if not gap or not {name, *gap} <= means.keys():
            return "-"
        key = self.study.kind.tested[1]
        for test in self.rows[gap[1]].get("paired", []):
            if test["against"] == gap[0] and (limits := test[key]["interval"]) and limits[0] <= 0:
                return "-"
        low, high = (means[end] for end in gap)
        return f"{round(100 * (means[name] - low) / (high - low))}%" if high > low else "-"

    def commands(self) -> list[str]:
        """The commands that make the figures again, rows of the same seeds together."""
        rows_of: dict[str, list[str]] = {}
        for name, row in self.rows.items():
            rows_of.setdefault(" ".join(map(str, row["seeds"])), []).append(name)
        return [self._command(rows, seeds) for seeds, rows in rows_of.items()]

    def _command(self, rows: Sequence[str], seeds: str) -> str:
        path = self.study.path
        where = path.parent if path.name == "study.yaml" else path
        names = " ".join(map(shlex.quote, rows))
        return f"detkd study {shlex.quote(str(where))} --rows {names} --seeds {seeds}"


def _exits(row: dict[str, Any]) -> list[str]:
    """The names of a row's exits, shallow ones first."""
    return list(dict.fromkeys(stage for exits in row.get("exits", []) for stage in exits or {}))


def _spread(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = f"{statistics.mean(known):.3f}"
    return f"{mean} ± {statistics.stdev(known):.3f}" if len(known) > 1 else mean


def _renewed(
    known: dict[str, Any] | None,
    of: dict[str, Any],
    make: Callable[[], dict[str, Any] | None] | None,
) -> dict[str, Any] | None:
    """What `make` says, where what is known is of something else than `of`; else what is known.

    Of runs that are gone there is no `make`.
    """
    if make is None or (known is not None and of.items() <= known.items()):
        return known
    made = make()
    return {**of, **made} if made else known


def _put(row: dict[str, Any], key: str, value: Any) -> None:
    """Set a key, or take it away where there is nothing to it."""
    row.pop(key, None)
    if value:
        row[key] = value


def _difference(line: dict[str, Any]) -> str:
    between = f" ({_limits(line['interval'])})" if line["interval"] else ""
    return f"{line['difference']:+.3f}{between}"


def _limits(interval: Sequence[float] | None) -> str:
    return "{:+.3f} to {:+.3f}".format(*interval) if interval else ""


def _is_of(row: dict[str, Any], task: Task) -> bool:
    """Whether a row's figures are of the settings and data that this training has now."""
    same = not (row.get("data") and task.data) or row["data"] == task.data
    return bool(row.get("settings") == task.settings and same)


def _digest_of(test: Path | None) -> str | None:
    """Digest of a test's images, boxes and classes; None where it is not there."""
    return digest_of_coco(read_coco(test)) if test and test.is_file() else None
