"""Find every problem of a data set, and say what conversion would do about it.

detkd check my_voc_folder
detkd check my_yolo_folder --report problems.json
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detkd.data.check import Examined

SHOWN = 3  # files named for each kind of problem


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="detkd check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(parser)
    options = parser.parse_args(argv)

    from detkd.data.check import examine
    from detkd.files import write_json

    examined = examine(
        options.source,
        source_format=options.source_format,
        zero_based=options.voc_zero_based,
        subset=options.subset,
        classes=read_classes(options.classes),
    )
    show(examined)
    if options.report:
        write_json(options.report, examined.report())
        print(f"report: {options.report}")
    return 1 if examined.problems else 0


def add_source(parser: argparse.ArgumentParser) -> None:
    """The arguments that `check` and `convert` share."""
    parser.add_argument("source", type=Path, metavar="SRC", help="folder, or COCO file")
    parser.add_argument(
        "--from",
        dest="source_format",
        choices=["voc", "yolo", "coco"],
        help="format of SRC (guessed, and said, otherwise)",
    )
    parser.add_argument(
        "--classes",
        type=Path,
        metavar="FILE",
        help="the classes to keep, one a line, in their order",
    )
    parser.add_argument(
        "--subset",
        metavar="NAME",
        help="only the images that SRC lists as NAME (VOC: ImageSets/Main/NAME.txt; "
        "YOLO: images/NAME)",
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="write all problems as JSON")
    parser.add_argument(
        "--voc-zero-based",
        action="store_true",
        help="the VOC files count pixels from 0, not from 1",
    )


def read_classes(path: Path | None) -> list[str] | None:
    """Names of a class file, one a line."""
    if path is None:
        return None
    from detkd.errors import DataError

    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a list of classes ({error}).") from error
    names = [line.strip() for line in lines if line.strip()]
    if len(set(names)) != len(names) or not names:
        raise DataError(f"{path}: must name each class once, one a line.")
    return names


def show(examined: Examined) -> None:
    """Counts, and each kind of problem with its first files."""
    from collections import defaultdict

    from rich.console import Console
    from rich.table import Table

    report = examined.report()
    console = Console()
    console.print(
        f"{examined.root} ({examined.data.source_format}): {report['images']} images, "
        f"{report['boxes']} boxes, {len(report['classes'])} classes: "
        f"{', '.join(report['classes'])}",
        markup=False,
        highlight=False,
    )
    if not examined.problems:
        console.print("no problems")
        return
    kinds = defaultdict(list)
    for problem in examined.problems:
        kinds[problem.kind, problem.action].append(problem)
    table = Table(title=f"{len(examined.problems)} problems")
    for name in ("problem", "action", "count", "for example"):
        table.add_column(name, justify="right" if name == "count" else "left")
    for (kind, action), found in sorted(kinds.items(), key=lambda item: -len(item[1])):
        first = "\n".join(
            f"{p.file or '(whole tree)'} {p.where}: {p.message}".replace("[", r"\[")
            for p in found[:SHOWN]
        )
        table.add_row(kind, action, str(len(found)), first)
    console.print(table)
