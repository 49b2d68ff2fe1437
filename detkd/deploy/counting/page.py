"""summary.html: the numbers, pictures of cells and what to look at, in one file."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from detkd.deploy.counting.counter import Counted
from detkd.deploy.counting.pictures import pictures_of
from detkd.deploy.counting.spectrum import spectrum_of
from detkd.deploy.counting.wording import escaped, figure, html_table, limits, shown

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:75rem;margin:2rem auto;padding:0 1rem;"
    "color:#1a1a1a}table{border-collapse:collapse;margin:1rem 0;font-size:.9rem}"
    "td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}"
    "td:first-child,th:first-child{text-align:left;overflow-wrap:anywhere}"
    "figure{display:inline-block;margin:.3rem;text-align:center;font-size:.75rem;"
    "vertical-align:bottom}svg text{font:12px system-ui,sans-serif}"
    "@media print{body{max-width:none;margin:0;font-size:10pt}tr,figure,svg{break-inside:avoid}}"
)


def page_of(document: Mapping[str, Any], counted: Counted) -> str:
    """The page, which needs no other file and loads nothing."""
    settings = document["settings"]
    title = f"Counts of {shown(counted.settings.found.resolve().name)}"
    notes = "".join(f"<li>{escaped(note)}</li>" for note in document["notes"])
    parts = [
        f"<h1>{escaped(title)}</h1>",
        f"<ul>{notes}</ul>" if notes else "",
        "<h2>Samples</h2>",
        _overview(document),
        "<h2>Classes</h2>",
        f"<p>Limits are those of {settings['level']:.0%} intervals of the count; what the detector "
        "misses or invents is not in them.</p>",
        *(_section(name, sample) for name, sample in document["samples"].items()),
        "<h2>Size spectrum</h2>",
        spectrum_of(counted),
        "<h2>Cells</h2>",
        _cells(counted),
        "<h2>Frames to check by hand first</h2>",
        _frames_to_check(document),
        "<h2>Settings</h2>",
        _settings(document),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{escaped(title)}</title><style>{STYLE}</style></head><body>"
        + "\n".join(parts)
        + "</body></html>\n"
    )


def _overview(document: Mapping[str, Any]) -> str:
    columns = (
        *("sample", "frames", "failed", "imaged mL", "cells", "limits", "cells per L", "limits"),
        *("biovolume mm³/L", "dispersion", "richness", "Shannon H"),
    )
    lines = []
    for name, sample in document["samples"].items():
        row, frames = sample["all"], sample["frames"]
        lines.append(
            (
                *(name, frames["found"] + frames["empty"], frames["failed"]),
                *(figure(sample["imaged_ml"]), f"{row['count']:,}"),
                limits(row["count_low"], row["count_high"]),
                figure(row["cells_per_l"]),
                limits(row["cells_per_l_low"], row["cells_per_l_high"]),
                *(figure(row["biovolume_mm3_per_l"]), figure(row["dispersion"])),
                *(sample["community"]["richness"], figure(sample["community"]["shannon"])),
            )
        )
    return html_table(columns, lines) + (
        "<p>Dispersion is the variance over the mean of the frames' counts: 1 by chance alone, "
        "more where cells lie in clumps. Richness is the number of classes that are there.</p>"
    )


def _section(name: str, sample: Mapping[str, Any]) -> str:
    columns = (
        *("class", "cells", "limits", "by", "dispersion", "cells per mL", "cells per L", "limits"),
        *("biovolume µm³", "mm³/L", "ESD µm"),
    )
    lines = [
        (
            *(label, f"{row['count']:,}", limits(row["count_low"], row["count_high"])),
            *(row["interval"], figure(row["dispersion"]), figure(row["cells_per_ml"])),
            figure(row["cells_per_l"]),
            limits(row["cells_per_l_low"], row["cells_per_l_high"]),
            *(figure(row[key]) for key in ("biovolume_um3", "biovolume_mm3_per_l", "esd_um")),
        )
        for label, row in sample["classes"].items()
    ]
    return f"<details open><summary>{escaped(name)}</summary>{html_table(columns, lines)}</details>"


def _cells(counted: Counted) -> str:
    pictures, missing = pictures_of(counted)
    said = [f"<p>{escaped(missing)}</p>"] if missing else []
    if pictures:
        said.insert(
            0, "<p>Of each class those of the highest scores, then some drawn at random.</p>"
        )
    for label, cells in pictures.items():
        said.append(f"<h3>{escaped(label)}</h3>")
        for cell, data in cells:
            where = f"{cell.frame}: score {cell.score:.2f}"
            said.append(
                f'<figure><img alt="{escaped(where)}" title="{escaped(where)}" '
                f'src="data:image/jpeg;base64,{base64.b64encode(data).decode()}">'
                f"<figcaption>{cell.score:.2f}</figcaption></figure>"
            )
    return "\n".join(said)


def _frames_to_check(document: Mapping[str, Any]) -> str:
    rows = document["check_first"]
    if not rows:
        return "<p>None stands out.</p>"
    lines = [
        (
            row["frame"],
            row["sample"],
            row["reason"],
            *("-" if row[key] is None else row[key] for key in ("counted", "near_threshold")),
        )
        for row in rows
    ]
    return html_table(("frame", "sample", "why", "counted", "near the threshold"), lines)


def _settings(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    rows: list[tuple[str, object]] = list(document["run"].items())
    rows += [
        (key, "-" if settings[key] is None else settings[key])
        for key in ("um_per_px", "depth_ratio", "interval", "level", "draws", "seed")
    ]
    rows += [(key, value) for key, value in settings["water"].items() if value is not None]
    shapes = [
        (
            label,
            *(said["shape"], said["formula"], said["shape_from"]),
            "-" if said["threshold"] is None else f"{said['threshold']:g}",
        )
        for label, said in settings["classes"].items()
    ]
    return (
        html_table(("setting", "value"), rows)
        + html_table(("class", "shape", "volume", "said by", "threshold"), shapes)
        + "<p>l and w are the longer and the shorter side of the box, t = depth ratio · w. A box "
        "is larger than a cell that lies askew in it.</p>"
    )
