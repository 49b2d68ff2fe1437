"""Several runs side by side on one ground truth: a table, and the same images with their boxes.

detkd compare runs/bccd-teacher runs/bccd-student runs/bccd-distill --gt datasets/bccd/val.json
detkd compare RUN RUN ... --gt test.json --out judged/

The first run is the measure: 'kept' is the share of its mAP. A run is judged once on the same
truth, and read from RUN/judged/ after that.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser


def main(argv: list[str]) -> int:
    parser = build_parser("compare", __doc__)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="folder of a training")
    parser.add_argument("--gt", required=True, type=Path, help="COCO ground truth")
    parser.add_argument(
        "--out", type=Path, help="folder for comparison.json, comparison.md and comparison.png"
    )
    options = parser.parse_args(argv)

    from rich.progress import track

    from detkd.data.dataset import CocoDataset
    from detkd.engine.compare import judge_run, rows, short_names
    from detkd.evaluation.comparison import draw_comparison
    from detkd.files import write_atomic, write_json

    judged = [
        judge_run(run, options.gt)
        for run in track(options.runs, description="judging", transient=True)
    ]
    table = rows(judged)
    _show(table, options.gt)
    if options.out:
        truth = CocoDataset(options.gt, image_size=320, cache="none")
        names = short_names(options.runs)
        found = {name: run.found for name, run in zip(names, judged, strict=True)}
        write_json(options.out / "comparison.json", table)
        write_atomic(options.out / "comparison.md", _markdown(table))
        draw_comparison(truth.truth, found, truth.image_root, options.out / "comparison.png")
        print(f"written: {options.out}/comparison.json, comparison.md, comparison.png")
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
}
TEXT = ("run", "backbone")


def _cells(row: dict[str, Any]) -> list[str]:
    def say(key: str, value: Any) -> str:
        if value is None:
            return "-"
        if key.endswith("parameters"):
            return f"{value / 1e6:.1f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"
        form = {"gflops": ".2f", "AP": ".3f", "AP50": ".3f", "milliseconds": ".1f", "kept": ".0%"}
        return format(value, form.get(key, ""))

    return [say(key, row[key]) for key in COLUMNS]


def _show(table: list[dict[str, Any]], truth: Path) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=f"judged on {truth}", box=box.SIMPLE, padding=(0, 1, 0, 0))
    for key, title in COLUMNS.items():
        shown.add_column(title, justify="left" if key in TEXT else "right", no_wrap=True)
    for row in table:
        shown.add_row(*_cells(row))
    console = Console()
    console.print(shown)
    console.print(
        "its params: weights of the backbone; ms: an image on one thread; kept: share of the "
        "first run's mAP",
        style="dim",
    )


def _markdown(table: list[dict[str, Any]]) -> str:
    rule = ["---" if key in TEXT else "---:" for key in COLUMNS]
    lines = [list(COLUMNS.values()), rule, *map(_cells, table)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
