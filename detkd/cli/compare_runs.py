"""Several runs side by side on one ground truth: a table, curves, and the same images with boxes.

detkd compare runs/bccd-teacher runs/bccd-student runs/bccd-distill
detkd compare RUN RUN ... --gt test.json --plain RUN --out judged/
detkd compare runs/study/*-[0-9] --gt val.json --by-seed

Without --gt they are judged on the validation data that they have in common. The first run is
the measure: 'kept' is the share of its mAP; with --plain, 'gap' is the share of the gap between
that run and the first that is closed. 'difference' is the mAP less that of --plain, or else of the
first run, with the interval and p-value of a paired test over samples, as of 'detkd eval
--against'; 'over seeds' is its interval for other trainings. A run is judged once on the same
truth, and read from RUN/judged/ after that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    parser = build_parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a training")
    parser.add_argument("--gt", type=Path, help="COCO ground truth (else data.val of the runs)")
    parser.add_argument("--plain", type=Path, metavar="RUN", help="the student without a teacher")
    parser.add_argument(
        "--by-seed", action="store_true", help="one row for NAME-0, NAME-1, ...: mean and spread"
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        metavar="N",
        help="draws of the paired test (0: no test; 1000, or 50 a class, if it is not given)",
    )
    parser.add_argument(
        "--out", type=Path, help="folder for comparison.html, .json, .md and .png and curves.png"
    )
    options = parser.parse_args(argv)

    from rich.progress import track

    from detkd.engine.compare import by_row, judge_run, paired_rows, rows, validation_of

    draws = options.bootstrap
    if draws is not None and draws < 0:
        raise DataError(f"--bootstrap: {draws} is negative; give 0 or more.")
    if options.plain and options.plain not in options.runs:
        raise DataError(f"--plain: {options.plain} is none of the runs that are compared.")
    truth = options.gt or validation_of(options.runs)
    judged = [
        judge_run(run, truth) for run in track(options.runs, description="judging", transient=True)
    ]
    groups = by_row(judged, by_seed=options.by_seed)
    tests = {}
    if len(groups) > 1 and draws != 0:
        tests = paired_rows(groups, truth, plain=options.plain, draws=draws)
    table = rows(groups, plain=options.plain, tests=tests.get("rows"))
    _show(table, tests, truth)
    if options.out:
        from detkd.engine.report import write_comparison

        note = _test_note(tests, table)
        write_comparison(options.out, judged, table, _cells(table), truth, tests, note)
        print(f"written: {options.out}/comparison.html, .json, .md and .png, curves.png")
    return 0


COLUMNS = {
    "run": "run",
    "backbone": "backbone",
    "backbone_parameters": "its params",
    "parameters": "params",
    "gflops": "GFLOPs",
    "AP": "mAP",
    "AP50": "AP50",
    "milliseconds": "ms",
    "kept": "kept",
    "closed": "gap",
    "difference": "difference",
    "interval": "95 %",
    "over_seeds": "over seeds",
    "p": "p",
    "p_adjusted": "p of all",
    "seconds": "minutes",
}
TEXT = ("run", "backbone")
TEST = ("difference", "interval", "over_seeds", "p", "p_adjusted")


def _cells(table: list[dict[str, Any]], *, narrow: bool = False) -> list[dict[str, str]]:
    """The rows as text by the columns' titles; a column that nobody fills is left out.

    A screen is narrow: what else would not fit in 80 characters stays in the files, and the paired
    test has a table of its own.
    """
    from detkd.evaluation.report import limits, number

    def say(row: dict[str, Any], key: str) -> str:
        value = row[key]
        if value is None:
            return "-"
        if key.endswith("parameters"):
            return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"
        if key == "seconds":
            return f"{value / 60:.0f}"
        if key == "AP" and row["spread"] is not None:
            return f"{value:.3f} ± {row['spread']:.3f}"
        if key == "milliseconds":
            if value >= 999.5:
                return f"{value / 1000:.1f}s"
            return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"  # three characters wide
        if key in ("interval", "over_seeds"):
            return limits(value)
        if key in ("p", "p_adjusted"):
            return number(value, 4)
        form = {"gflops": ".2f", "AP": ".3f", "AP50": ".3f", "difference": "+.3f"}
        return format(value, form.get(key, ".0%" if key in ("kept", "closed") else ""))

    left_out = {key for key in ("closed", *TEST) if all(row[key] is None for row in table)}
    if sum(row["p"] is not None for row in table) < 2:
        left_out.add("p_adjusted")
    if narrow:
        left_out |= {"seconds", *TEST} if "closed" in left_out else {"seconds", *TEST, "kept"}
        left_out |= {"parameters"} if any(row["spread"] is not None for row in table) else set()
    shown = {key: title for key, title in COLUMNS.items() if key not in left_out}
    return [{title: say(row, key) for key, title in shown.items()} for row in table]


def _test_note(tests: dict[str, Any], table: list[dict[str, Any]]) -> str:
    """What the columns of the paired test mean; nothing where there was none."""
    if not tests:
        return ""
    first = next(iter(tests["rows"].values()))
    rows = len(tests["rows"])
    luck = "over seeds: 95 % for other trainings on these images"
    parts = [
        f"difference: mAP less that of {tests['against']}",
        f"95 % and p: paired by {first['unit']} ({first['groups']}), {first['draws']} draws, for "
        "these trainings",
        luck if any(row["over_seeds"] for row in table) else "other seeds vary besides",
    ]
    if rows > 1:
        parts.append(f"p of all: Holm, for {rows} rows")
    return "; ".join(parts)


def _show(table: list[dict[str, Any]], tests: dict[str, Any], truth: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    cells = _cells(table, narrow=True)
    console = Console()
    console.print(_on_screen(cells, f"judged on {truth}"))
    measure = (
        "gap: share of that between --plain and the first run that is closed"
        if "gap" in cells[0]
        else "kept: share of the first run's mAP"
    )
    console.print(
        f"its params: weights of the backbone; ms: an image on one thread; {measure}", style="dim"
    )
    tested = [row for row in _cells(table) if row.get("difference", "-") != "-"]
    if tested:
        titles = [COLUMNS[key] for key in ("run", *TEST)]
        chosen = [{title: row[title] for title in titles if title in row} for row in tested]
        console.print(_on_screen(chosen, f"mAP less that of {tests['against']}"))
        console.print(Text(_test_note(tests, table)), style="dim")


def _on_screen(cells: list[dict[str, str]], title: str) -> Any:
    """Nothing in the cells is taken for markup."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title), box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in cells[0]:
        if column in TEXT:  # where there is no room, names are folded, and no number is cut
            shown.add_column(column, overflow="fold")
        else:
            shown.add_column(column, justify="right", no_wrap=True)
    for row in cells:
        shown.add_row(*map(Text, row.values()))
    return shown
