"""What a comparison of runs leaves behind: table, curves, similarity, pictures, and one page."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detkd.data.dataset import CocoDataset
from detkd.engine.compare import JudgedRun, short_names
from detkd.engine.curves import plot_courses
from detkd.engine.run import RunFolder
from detkd.engine.similarity import similarity, start_of
from detkd.evaluation.comparison import draw_comparison
from detkd.files import write_atomic, write_json
from detkd.markdown import markdown_table
from detkd.models.detector import Detector
from detkd.page import page_html, table_html

SEEN = 16  # images on which features are compared


def write_comparison(
    folder: Path,
    judged: Sequence[JudgedRun],
    table: list[dict[str, Any]],
    cells: list[dict[str, str]],
    truth: Path,
    tests: dict[str, Any],
    note: str,
) -> None:
    """Write comparison.html, .json, .md and .png and curves.png.

    Args:
        folder: of the files.
        judged: the runs; features are compared with those of the first.
        table: the rows as numbers, for the JSON file.
        cells: the rows as text by column.
        truth: COCO ground truth on which they were judged.
        tests: the paired tests of the rows (see `paired_rows`), for the JSON file.
        note: a sentence that stands below the table of the page.
    """
    data = CocoDataset(truth, image_size=320, cache="none")
    names = short_names([run.run for run in judged])
    alike = _similarities(judged, names, truth)
    write_json(folder / "comparison.json", {"rows": table, "paired": tests, "cka": alike})
    columns = list(cells[0])
    lines = [columns, *(list(row.values()) for row in cells)]
    write_atomic(folder / "comparison.md", markdown_table(lines, text=2))
    found = {name: run.found for name, run in zip(names, judged, strict=True)}
    draw_comparison(data.truth, found, data.image_root, folder / "comparison.png")
    runs = {name: RunFolder(run.run) for name, run in zip(names, judged, strict=True)}
    plot_courses(runs, folder / "curves.png")
    parts: dict[str, str | Path] = {
        "Runs": table_html(columns, lines[1:]) + f"<p>{html.escape(note)}</p>",
        "Learning curves": folder / "curves.png",
        "The same images: truth, and what each run finds": folder / "comparison.png",
    }
    if alike:
        parts[f"Likeness of features to {names[0]} (CKA), before and after training"] = (
            _similarity_table(alike)
        )
    write_atomic(folder / "comparison.html", page_html(f"Judged on {truth.name}", parts))


def _similarities(
    judged: Sequence[JudgedRun], names: Sequence[str], truth: Path
) -> dict[str, dict[str, dict[str, float]]]:
    """CKA of each further run with the first, by feature, where both see images of one size."""
    teacher = Detector.load(judged[0].run / "best.pt")
    data = CocoDataset(truth, image_size=teacher.image_size, cache="none")
    images = [data[at][0] for at in range(0, len(data), max(1, len(data) // SEEN))][:SEEN]
    found = {}
    for name, run in zip(names[1:], judged[1:], strict=True):
        student = Detector.load(run.run / "best.pt")
        if student.image_size == teacher.image_size:
            start = start_of(RunFolder(run.run), student)
            found[name] = similarity(start, student, teacher, images)
    return found


def _similarity_table(alike: dict[str, dict[str, dict[str, float]]]) -> str:
    features = sorted({feature for each in alike.values() for feature in each})
    lines = []
    for name, each in alike.items():
        cells = []
        for feature in features:
            pair = each.get(feature)
            cells.append(f"{pair['before']:.2f} → {pair['after']:.2f}" if pair else "-")
        lines.append([name, *cells])
    return table_html(["run", *features], lines)
