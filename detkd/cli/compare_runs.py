"""Several runs side by side on one ground truth: a table, curves, and the same images with boxes.

detkd compare runs/bccd-teacher runs/bccd-student runs/bccd-distill --gt datasets/bccd/val.json
detkd compare RUN RUN ... --gt test.json --plain RUN --out judged/
detkd compare runs/study/*-[0-9] --gt val.json --by-seed

The first run is the measure: 'kept' is the share of its mAP; with --plain, 'gap' is the share of
the gap between that run and the first that is closed. A run is judged once on the same truth, and
read from RUN/judged/ after that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    parser = build_parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a training")
    parser.add_argument("--gt", required=True, type=Path, help="COCO ground truth")
    parser.add_argument("--plain", type=Path, metavar="RUN", help="the student without a teacher")
    parser.add_argument(
        "--by-seed", action="store_true", help="one row for NAME-0, NAME-1, ...: mean and spread"
    )
    parser.add_argument(
        "--out", type=Path, help="folder for comparison.html, .json, .md and .png and curves.png"
    )
    options = parser.parse_args(argv)

    from rich.progress import track

    from detkd.engine.compare import judge_run, rows

    if options.plain and options.plain not in options.runs:
        raise DataError(f"--plain: {options.plain} is none of the runs that are compared.")
    judged = [
        judge_run(run, options.gt)
        for run in track(options.runs, description="judging", transient=True)
    ]
    table = rows(judged, plain=options.plain, by_seed=options.by_seed)
    _show(table, options.gt)
    if options.out:
        from detkd.engine.report import write_comparison

        write_comparison(options.out, judged, table, _cells(table), options.gt)
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
    "seconds": "minutes",
}
TEXT = ("run", "backbone")


def _cells(table: list[dict[str, Any]], *, narrow: bool = False) -> list[dict[str, str]]:
    """The rows as text by the columns' titles; a column that nobody fills is left out.

    A screen is narrow: what else would not fit in 80 characters stays in the files.
    """

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
            return f"{value:.1f}" if value < 10 else f"{value:.0f}"
        form = {"gflops": ".2f", "AP": ".3f", "AP50": ".3f"}
        return format(value, form.get(key, ".0%" if key in ("kept", "closed") else ""))

    left_out = set()
    if all(row["closed"] is None for row in table):
        left_out.add("closed")
    if narrow:
        left_out |= {"seconds"} if "closed" in left_out else {"seconds", "kept"}
        left_out |= {"parameters"} if any(row["spread"] is not None for row in table) else set()
    shown = {key: title for key, title in COLUMNS.items() if key not in left_out}
    return [{title: say(row, key) for key, title in shown.items()} for row in table]


def _show(table: list[dict[str, Any]], truth: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    cells = _cells(table, narrow=True)
    shown = Table(title=f"judged on {truth}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for title in cells[0]:
        shown.add_column(title, justify="left" if title in TEXT else "right", no_wrap=True)
    for row in cells:
        shown.add_row(*row.values())
    console = Console()
    console.print(shown)
    measure = (
        "gap: share of that between --plain and the first run that is closed"
        if "gap" in cells[0]
        else "kept: share of the first run's mAP"
    )
    console.print(
        f"its params: weights of the backbone; ms: an image on one thread; {measure}", style="dim"
    )
