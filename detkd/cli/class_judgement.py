"""A classifier's judgement on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

ONE_SAMPLE = "all images are of one sample, which tells nothing about others: no interval"


def show_classes(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from detkd.cli.check_dataset import plain
    from detkd.evaluation.report import number

    console = Console()
    calibration, unknown = metrics["calibration"], metrics["unknown"]
    table = Table(title="classes")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % by sample", justify="right")
    for name, value in metrics["classes"].items():
        interval = metrics["intervals"].get(name)
        table.add_row(name, number(value), " to ".join(map(number, interval)) if interval else "")
    table.add_row("calibration error", number(calibration["ece"]), "")
    scaled = f"at temperature {calibration['temperature']:.2f}"
    table.add_row(scaled, number(calibration["ece_scaled"]), "")
    console.print(table)
    classes = Table(title="per class")
    for name in ("class", "precision", "recall", "F1", "truths"):
        classes.add_column(name, justify="left" if name == "class" else "right")
    for name, row in metrics["per_class"].items():
        shown = [number(row[key]) for key in ("precision", "recall", "f1")]
        classes.add_row(plain(name), *shown, str(row["truths"]))
    console.print(classes)
    _show_unknown(console, unknown)
    if foreign := unknown.get("foreign"):
        told = foreign["per_class"].items()
        shares = ", ".join(f"{name} {row['rejected']:.0%} of {row['images']}" for name, row in told)
        console.print(
            plain(
                f"of {foreign['images']} images of other classes {foreign['rejected']:.0%} are "
                f"'unknown' ({shares}); AUROC {number(foreign['auroc'])}"
            )
        )
    if early := metrics.get("early"):
        for name, row in early["exits"].items():
            console.print(
                f"exit {name}: top-1 {number(row['top1'])}, {row['flops'] / 1e6:.1f} MFLOPs, "
                f"{row['share']:.0%} of the images stop there"
            )
        console.print(
            f"stopping early: top-1 {number(early['early']['top1'])}, {early['saved']:.0%} of the "
            "operations saved"
        )
        if said := early.get("calibration"):
            console.print(
                f"calibration error there: {number(said['ece'])}, {number(said['ece_scaled'])} at "
                f"temperature {said['temperature']:.2f}"
            )
            _show_unknown(console, early["unknown"], " there")
    if metrics["chosen_on"]["measured_there"]:
        console.print("temperature and thresholds were chosen on these images, and flatter here")
    if metrics["intervals"].get("groups") == 1:
        console.print(ONE_SAMPLE)
    if against := metrics.get("against"):
        _show_against(console, against)


def no_threshold(accuracy: float, where: str = "") -> str:
    """The sentence where none was good enough on the validation images."""
    return (
        f"no threshold had {accuracy:.0%} of the validation images right{where}, or these were too "
        "few to tell: all are 'unknown'"
    )


def _show_unknown(console: Console, unknown: dict[str, Any], where: str = "") -> None:
    from detkd.evaluation.report import number

    if unknown["threshold"] is not None:
        console.print(
            f"'unknown' below {unknown['threshold']:.2f}{where}: {unknown['coverage']:.0%} get a "
            f"class, of which {number(unknown['accuracy'])} are right"
        )
    else:
        console.print(no_threshold(unknown["asked_accuracy"], where))


def _show_against(console: Console, against: dict[str, Any]) -> None:
    from detkd.evaluation.class_intervals import INTERVALS_OF

    for name in INTERVALS_OF:
        row = against[name]
        between = "no interval"
        if row["interval"]:
            between = "{:+.3f} to {:+.3f}".format(*row["interval"])
        console.print(f"{name}: {row['difference']:+.3f} ({between}), p = {row['p']:.3f}")
    alone = against["right_alone"]
    p = alone["mcnemar_p"]
    console.print(
        f"right alone: {alone['ours']} images here, {alone['theirs']} there"
        + (f" (McNemar p = {p:.3f})" if p is not None else "")
    )
    if against["groups"] == 1:
        console.print(ONE_SAMPLE)
