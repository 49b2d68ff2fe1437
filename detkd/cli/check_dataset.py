"""Find every problem of a data set, and say what conversion would do about it.

Ends with 0 if there is none, and with 1 if there is any.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from detkd.cli.parser import build_parser
from detkd.errors import DataError

if TYPE_CHECKING:
    from detkd.data.check import Examined
    from detkd.data.records import Problem

EXAMPLES = """examples:
  detkd check my_voc_folder
  detkd check my_yolo_folder --report problems.json --html problems.html
  detkd check boxes.csv --columns image=file,class=species,xmin=l,ymin=t,xmax=r,ymax=b
  detkd check my_voc_folder --subset train
"""
SHOWN = 3  # files named for each kind of problem


def main(argv: list[str]) -> int:
    parser = build_parser("check", __doc__, EXAMPLES)
    add_source(parser)
    parser.add_argument(
        "--no-similar",
        action="store_true",
        help="do not compare the pictures of training, validation and test with each other",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="write a page with pictures of every problem"
    )
    options = parser.parse_args(argv)
    examined = examine_source(options, similar=not options.no_similar)
    show(examined, options.report)
    if options.html:
        from detkd.data.check_page import write_page
        from detkd.data.convert import writing
        from detkd.files import write_atomic

        with writing(options.html):
            write_atomic(options.html, write_page(examined))
        print(f"page: {options.html}")
    return 1 if examined.problems else 0


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that `check` and `convert` share."""
    parser.add_argument("source", type=Path, metavar="SRC", help="folder, or file of annotations")
    parser.add_argument(
        "--from",
        dest="source_format",
        metavar="FORMAT",
        help="format of SRC: voc, yolo, coco, labelme, cvat, label_studio, csv or folders "
        "(guessed, and said, otherwise; folders are not)",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="the classes to keep, one a line or in a data-set card (YAML), in their order; for a "
        "YOLO tree without names of classes these are the names",
    )
    parser.add_argument(
        "--subset",
        metavar="NAME",
        help="only the images that SRC lists as NAME (VOC: ImageSets/Main/NAME.txt; YOLO: "
        "images/NAME, or NAME in data.yaml)",
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="DIR",
        help="the folder that a COCO file's names start from (its own folder, or what it says)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all problems as JSON")
    parser.add_argument(
        "--decode",
        action="store_true",
        help="decode every image to its last pixel (otherwise headers and ends are looked at)",
    )
    parser.add_argument(
        "--columns",
        metavar="MAP",
        help="columns of a CSV table, such as image=file,class=species,xmin=left,ymin=top,"
        "xmax=right,ymax=bottom (or x, y, w, h, or cx, cy, w, h)",
    )
    parser.add_argument(
        "--voc-zero-based",
        action="store_true",
        help="the VOC files count pixels from 0, not from 1",
    )


def examine_source(options: argparse.Namespace, *, similar: bool = False) -> Examined:
    """Read and check what the arguments of `add_source` name.

    Raises:
        DataError: an unknown format, or a source that cannot be read at all.
    """
    from detkd.data.check import examine
    from detkd.data.formats import FORMATS

    known = ", ".join(FORMATS)
    if options.source_format is not None and options.source_format not in FORMATS:
        raise DataError(f"--from: no format '{options.source_format}'; there are {known}.")
    try:
        return examine(
            options.source,
            source_format=options.source_format,
            zero_based=options.voc_zero_based,
            subset=options.subset,
            classes=read_classes(options.classes),
            columns=read_columns(options.columns),
            decode=options.decode,
            similar=similar,
            images=options.images,
        )
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"{error.filename or options.source}: cannot be read ({why}).") from error


def read_columns(text: str | None) -> dict[str, str] | None:
    """The map of `--columns`: the name of a column for each part of a box.

    Raises:
        DataError: no map, or a part that is not known.
    """
    from detkd.data.formats.csv_table import NAMES

    if text is None:
        return None
    pairs = [pair.partition("=") for pair in text.split(",")]
    for part, _, column in pairs:
        if part.strip() not in NAMES or not column.strip():
            raise DataError(
                f"--columns: '{part.strip()}={column.strip()}' names no column of a part; "
                f"parts are {', '.join(NAMES)}."
            )
    return {part.strip(): column.strip() for part, _, column in pairs}


def read_classes(path: Path | None) -> list[str] | None:
    """Names of a class file, one a line, or those of a data-set card.

    Raises:
        DataError: not readable, not a card, or a name twice.
    """
    from detkd.data.card import read_card

    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        card = path.suffix.lower() in (".yaml", ".yml")
        names = read_card(text).classes if card else text.splitlines()
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a list of classes ({why}).") from error
    names = [name.strip() for name in names if name.strip()]
    if len(set(names)) != len(names) or not names:
        raise DataError(f"{path}: must name each class once, one a line.")
    return names


def show(examined: Examined, report: Path | None) -> None:
    """Print counts and each kind of problem with its first files; write all to `report`."""
    from rich.console import Console

    from detkd.data.convert import writing
    from detkd.files import write_json

    found: dict[str, Any] = examined.report()
    if report:
        with writing(report):
            write_json(report, found)
    console = Console()
    console.print(
        plain(
            f"{examined.root} (read as {examined.data.source_format}, {found['rule']['name']}): "
            f"{found['images']} images, {found['boxes']} boxes, {len(found['classes'])} classes: "
            f"{', '.join(found['classes'])}"
        )
    )
    if not examined.problems:
        console.print("no problems")
    for problems, what in ((examined.problems, "problem"), (examined.notes, "note")):
        if problems:
            console.print(_table(problems, what))
    if report:
        print(f"report: {report}")
    elif examined.problems or examined.notes:
        print("--report FILE writes all of them as JSON")


def _table(problems: list[Problem], what: str) -> Any:
    """One line a kind: how often, and the first files. Notes, which are no faults, get one."""
    from collections import defaultdict

    from rich.table import Table

    kinds = defaultdict(list)
    for problem in problems:
        kinds[problem.kind, problem.action].append(problem)
    shown = SHOWN if what == "problem" else 1
    table = Table(title=f"{len(problems)} {what}{'s' if len(problems) > 1 else ''}")
    for name in (what, "action", "count", "for example"):
        table.add_column(name, justify="right" if name == "count" else "left")
    for (kind, action), members in sorted(kinds.items(), key=lambda item: -len(item[1])):
        first = [
            f"{' '.join(filter(None, (p.file or '(whole tree)', p.where)))}: {p.message}"
            for p in members[:shown]
        ]
        more = [f"and {len(members) - shown} more"] if len(members) > shown else []
        table.add_row(kind, action, str(len(members)), plain("\n".join(first + more)))
    return table


def plain(text: str) -> Any:
    """`text` for rich, without markup, and without what a terminal cannot show or would obey."""
    from rich.text import Text

    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return Text(shown)
