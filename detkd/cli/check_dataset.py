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

EXAMPLES = """examples:
  detkd check my_voc_folder
  detkd check my_yolo_folder --report problems.json
  detkd check my_voc_folder --subset train
"""
SHOWN = 3  # files named for each kind of problem


def main(argv: list[str]) -> int:
    parser = build_parser("check", __doc__, EXAMPLES)
    add_source(parser)
    options = parser.parse_args(argv)
    examined = examine_source(options)
    show(examined, options.report)
    return 1 if examined.problems else 0


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that `check` and `convert` share."""
    parser.add_argument("source", type=Path, metavar="SRC", help="folder, or COCO file")
    parser.add_argument(
        "--from",
        dest="source_format",
        metavar="FORMAT",
        help="format of SRC: voc, yolo or coco (guessed, and said, otherwise)",
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
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all problems as JSON")
    parser.add_argument(
        "--voc-zero-based",
        action="store_true",
        help="the VOC files count pixels from 0, not from 1",
    )


def examine_source(options: argparse.Namespace) -> Examined:
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
        )
    except OSError as error:
        why = error.strerror or error
        raise DataError(f"{error.filename or options.source}: cannot be read ({why}).") from error


def read_classes(path: Path | None) -> list[str] | None:
    """Names of a class file, one a line, or those of a data-set card.

    Raises:
        DataError: not readable, not a card, or a name twice.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8-sig")
        names = _of_card(text) if path.suffix.lower() in (".yaml", ".yml") else text.splitlines()
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a list of classes ({why}).") from error
    names = [name.strip() for name in names if name.strip()]
    if len(set(names)) != len(names) or not names:
        raise DataError(f"{path}: must name each class once, one a line.")
    return names


def _of_card(text: str) -> list[str]:
    """Names of the classes of a data-set card, which are names or mappings with a name."""
    card = yaml.safe_load(text)
    classes = card.get("classes") if isinstance(card, dict) else None
    if not isinstance(classes, list):
        raise ValueError("no list 'classes' of names in it")
    names: list[Any] = [e.get("name") if isinstance(e, dict) else e for e in classes]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("no list 'classes' of names in it")
    return names


def show(examined: Examined, report: Path | None) -> None:
    """Print counts and each kind of problem with its first files; write all to `report`."""
    from collections import defaultdict

    from rich.console import Console
    from rich.table import Table

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
    else:
        kinds = defaultdict(list)
        for problem in examined.problems:
            kinds[problem.kind, problem.action].append(problem)
        count = len(examined.problems)
        table = Table(title=f"{count} problem{'s' if count > 1 else ''}")
        for name in ("problem", "action", "count", "for example"):
            table.add_column(name, justify="right" if name == "count" else "left")
        for (kind, action), members in sorted(kinds.items(), key=lambda item: -len(item[1])):
            first = [
                f"{' '.join(filter(None, (p.file or '(whole tree)', p.where)))}: {p.message}"
                for p in members[:SHOWN]
            ]
            more = [f"and {len(members) - SHOWN} more"] if len(members) > SHOWN else []
            table.add_row(kind, action, str(len(members)), plain("\n".join(first + more)))
        console.print(table)
    if report:
        print(f"report: {report}")
    elif examined.problems:
        print("--report FILE writes all of them as JSON")


def plain(text: str) -> Any:
    """`text` for rich, without markup, and without what a terminal cannot show or would obey."""
    from rich.text import Text

    shown = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return Text(shown)
