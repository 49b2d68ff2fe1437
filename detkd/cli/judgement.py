"""A judgement on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from detkd.evaluation.case import Case


def tell_unknown(case: Case, path: Path | None) -> None:
    """What was passed over."""
    if case.unknown:
        print(f"{path}: {case.unknown} detections of unknown categories were passed over")


def tell_flattered(thresholds: Path, truth: Path) -> None:
    """That thresholds were chosen on the very data that they are used on."""
    from detkd.evaluation.thresholds import chosen_on

    if chosen_on(thresholds, truth):
        print(f"{thresholds}: was chosen on {truth} itself; its counts are flattered")


def choose(case: Case, rule: str, truth: dict[str, Any], gt: Path, path: Path) -> None:
    """Write the thresholds by a rule to `path`, and tell where the rule could not be met.

    Raises:
        DataError: there is no such rule, or the truth is a test split.
    """
    from detkd.evaluation.thresholds import parse_rule, thresholds_document
    from detkd.files import write_json

    document = thresholds_document(case, parse_rule(rule), gt, truth)
    write_json(path, document)
    for name, row in document["classes"].items():
        if not row["met"]:
            print(f"class '{name}': {rule} cannot be met; {row['threshold']:g} is taken")
    print(f"written: {path}")


def show(metrics: dict[str, Any]) -> None:
    """The numbers that are looked at first."""
    from rich.console import Console
    from rich.text import Text

    from detkd.evaluation.report import limits, number

    console = Console()
    intervals = metrics["intervals"]
    numbers = {**metrics["coco"], **{f"VOC {k}": v for k, v in metrics["voc"].items()}}
    columns = ["measure", "value", *(["95 %"] if intervals else [])]
    lines = [[name, number(v), limits(intervals.get(name))] for name, v in numbers.items()]
    console.print(_table("COCO and VOC", columns, lines))
    spans = intervals.get("per_class", {})
    columns = ["class", "AP", *(["95 %"] if spans else []), "AP50", "AR100", "truths", "counted"]
    lines = []
    for name, row in metrics["per_class"].items():
        ap, ap50, recall = (number(row[key]) for key in ("AP", "AP50", "AR100"))
        span = [limits(spans[name]["AP"])] if spans else []
        counted = metrics["counts"]["per_class"][name]["counted"]
        lines.append([name, ap, *span, ap50, recall, str(row["truths"]), str(counted)])
    console.print(_table("per class", columns, lines))
    if intervals:
        console.print(
            f"intervals: {intervals['draws']} draws of {intervals['groups']} {intervals['unit']}s"
        )
    if "against" in metrics:
        for line in _against(metrics["against"]):
            console.print(Text(line))


def _against(against: dict[str, Any]) -> list[str]:
    from detkd.evaluation.report import limits

    lines = [f"against {against['file']}, paired by {against['unit']} ({against['groups']}):"]
    for name in ("AP", "AP50"):
        row = against[name]
        if row["difference"] is not None:
            lines.append(
                f"  {name} {row['difference']:+.3f} ({limits(row['interval'])}), p = {row['p']:.3g}"
            )
    lines.append(f"  classes that changed: {', '.join(against['changed']) or 'none'}")
    return lines


def _table(title: str, columns: list[str], lines: list[list[str]]) -> Any:
    """The first column is text; nothing in the cells is taken for markup."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title)
    for at, name in enumerate(columns):
        table.add_column(name, justify="right" if at else "left")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line[: len(columns)]))
    return table
