"""A judgement as one HTML page that stands alone: to open, to print, to send around."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkd.evaluation.errors import KINDS
from detkd.files import write_atomic
from detkd.page import page_html, table_html

MOST_SAMPLES = 50  # rows of a table that still can be read


def write_report(
    metrics: dict[str, Any], pictures: Mapping[str, Path], title: str, path: Path
) -> None:
    """Write the page of `metrics` (see `judge`) with its pictures by heading."""
    write_atomic(path, report_html(metrics, pictures, title))


def report_html(metrics: dict[str, Any], pictures: Mapping[str, Path], title: str) -> str:
    """The page; each picture is inside it."""
    parts: dict[str, str | Path] = {"In short": _summary(metrics)}
    if "against" in metrics:
        parts["Against the other results"] = _against(metrics["against"])
    parts["By class"] = _classes(metrics)
    parts["Counts"] = _counts(metrics["counts"])
    if "per_sample" in metrics["counts"]:
        parts["Counts by sample"] = _samples(metrics["counts"]["per_sample"])
    parts["Errors"] = _errors(metrics["errors"])
    parts["By size"] = _sizes(metrics["sizes"]["bins"])
    if metrics["sizes"]["um"]:
        parts["Diameters in µm"] = _diameters(metrics["sizes"]["um"])
    return page_html(title, {**parts, **pictures})


def number(value: float | None, digits: int = 3) -> str:
    """A number as the tables show it; '-' where there is none."""
    return "-" if value is None else f"{value:.{digits}f}"


def limits(pair: list[float] | None) -> str:
    """An interval as the tables show it."""
    return "-" if pair is None else f"{pair[0]:.3f} to {pair[1]:.3f}"


def _note(text: str) -> str:
    return f"<p>{html.escape(text)}</p>"


def _summary(metrics: dict[str, Any]) -> str:
    intervals = metrics["intervals"]
    lines = [[name, number(v), limits(intervals.get(name))] for name, v in metrics["coco"].items()]
    lines += [[f"VOC {name}", number(value), "-"] for name, value in metrics["voc"].items()]
    note = "COCO's numbers and PASCAL VOC's, from 0 to 1; '-' where there is nothing to measure."
    if intervals:
        note += (
            f" Intervals: {100 * intervals['level']:g} %, {intervals['draws']} draws of "
            f"{intervals['groups']} {intervals['unit']}s."
        )
    return _note(note) + table_html(("measure", "value", "interval"), lines)


def _against(against: dict[str, Any]) -> str:
    columns = ("", "these", "the other", "difference", "interval", "p", "p, of all classes")

    def line(name: str, row: dict[str, Any]) -> list[str]:
        return [
            name,
            number(row["value"]),
            number(row["other"]),
            "-" if row["difference"] is None else f"{row['difference']:+.3f}",
            limits(row["interval"]),
            number(row["p"], 4),
            number(row.get("p_adjusted"), 4),
        ]

    rows = [line(name, against[name]) for name in ("AP", "AP50")]
    rows += [line(f"AP of {name}", row["AP"]) for name, row in against["per_class"].items()]
    changed = ", ".join(against["changed"]) or "none"
    return _note(
        f"Against {against['file']}, paired by {against['unit']} ({against['groups']}), "
        f"{against['draws']} draws. Classes that changed: {changed}."
    ) + table_html(columns, rows)


def _classes(metrics: dict[str, Any]) -> str:
    columns = ("class", "AP", "interval", "AP50", "AP75", "AR100", "best F1", "at score", "truths")
    spans = metrics["intervals"].get("per_class", {})
    lines = []
    for name, row in metrics["per_class"].items():
        best = metrics["f1"][name] or {"f1": None, "score": None}
        lines.append(
            [
                name,
                number(row["AP"]),
                limits(spans.get(name, {}).get("AP")),
                *(number(row[key]) for key in ("AP50", "AP75", "AR100")),
                number(best["f1"]),
                number(best["score"]),
                str(row["truths"]),
            ]
        )
    return table_html(columns, lines)


def _counts(counts: dict[str, Any]) -> str:
    columns = ("class", "score from", "annotated", "counted", "relative error", "bias", "MAE")
    rows = {**counts["per_class"], "all": counts["all"]}
    lines = [
        [
            name,
            number(counts["thresholds"].get(name)),
            str(row["annotated"]),
            str(row["counted"]),
            "-" if row["relative_error"] is None else f"{row['relative_error']:+.1%}",
            number(row["bias"]),
            number(row["mean_absolute_error"]),
        ]
        for name, row in rows.items()
    ]
    whole = counts["community"]
    return _note(
        "Bias and mean absolute error (MAE) are by image. Of all images together: "
        f"Bray-Curtis similarity {number(whole['bray_curtis'])}; "
        f"richness {whole['richness']['counted']} counted, "
        f"{whole['richness']['annotated']} annotated; "
        f"Shannon index {number(whole['shannon']['counted'])} counted, "
        f"{number(whole['shannon']['annotated'])} annotated."
    ) + table_html(columns, lines)


def _samples(samples: dict[str, Any]) -> str:
    columns = (
        "sample",
        "annotated",
        "counted",
        "Bray-Curtis similarity",
        "richness, annotated",
        "counted",
        "Shannon, annotated",
        "counted",
    )
    shown = sorted(samples.items(), key=lambda item: item[1]["bray_curtis"] or 0)[:MOST_SAMPLES]
    lines = [
        [
            name,
            str(row["annotated"]),
            str(row["counted"]),
            number(row["bray_curtis"]),
            *(str(row["richness"][side]) for side in ("annotated", "counted")),
            *(number(row["shannon"][side]) for side in ("annotated", "counted")),
        ]
        for name, row in shown
    ]
    note = f"{len(samples)} samples, the least similar first"
    note += (
        f"; {MOST_SAMPLES} are shown, metrics.json has all." if len(samples) > len(shown) else "."
    )
    return _note(note) + table_html(columns, lines)


def _errors(errors: dict[str, Any]) -> str:
    lines = [[kind, str(errors["counts"][kind]), number(errors["gain"][kind])] for kind in KINDS]
    return _note(
        f"At overlap {errors['overlap']}; gain is what AP50 ({number(errors['AP50'])}) would gain "
        "if errors of this kind alone were mended."
    ) + table_html(("kind", "errors", "gain"), lines)


def _sizes(bins: list[dict[str, Any]]) -> str:
    lines = [
        [
            f"{row['from_px']:.1f}" + (f" to {row['to_px']:.1f}" if row["to_px"] else " or more"),
            str(row["truths"]),
            *(number(row[key]) for key in ("AP", "AP50", "AR100")),
        ]
        for row in bins
    ]
    note = "Bins of as many truths; the side of a square of the object's area, in px."
    return _note(note) + table_html(("side, px", "truths", "AP", "AP50", "AR100"), lines)


def _diameters(sizes: dict[str, Any]) -> str:
    shown = ("median", "p10", "p90")
    columns = ("class", "annotated: objects", *shown, "counted: objects", *shown)
    lines = [
        [
            name,
            *(
                cell
                for side in ("annotated", "counted")
                for cell in (
                    str(row[side]["objects"]),
                    *(number(row[side][key], 2) for key in shown),
                )
            ),
        ]
        for name, row in {**sizes["per_class"], "all": sizes["all"]}.items()
    ]
    missing = sizes["images_without_scale"]
    note = "Diameter of the circle with the area of the ellipse inside the box."
    note += f" {missing} images without a scale are left out." if missing else ""
    return _note(note) + table_html(columns, lines)
