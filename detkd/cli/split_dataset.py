"""Split a COCO file into train, val and test, or into folds, that share no sample.

Every class, and images with few and with many boxes, are on each side in proportion. Ends with 1
if the same picture lies on two sides under two names.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import DataError

EXAMPLES = """examples:
  detkd split datasets/mine/all.json --out datasets/mine --groups sample
  detkd split datasets/mine/all.json --out datasets/mine --groups slides.csv --ratios 0.8 0.2 0
  detkd split datasets/mine/all.json --out datasets/mine --group-pattern '^(S[0-9]+)_' --folds 5
  detkd split datasets/mine/all.json --out datasets/mine --join-similar
"""
SHOWN = 10  # leaks that are named


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from detkd.data.convert import writing
    from detkd.data.formats.coco import image_root, read_document
    from detkd.data.split import SIDES, alone, divide, with_similar
    from detkd.files import write_json

    document = read_document(options.coco)
    root = image_root(options.coco, document.get("info"))
    groups = _groups(document, options)
    if options.join_similar:
        groups = with_similar(document, groups, root)
    if alone(groups):
        print(f"{alone(groups)} images are in no group; each stands alone")
    if options.folds:
        names = [f"fold{at}" for at in range(1, options.folds + 1)]
        asked = dict.fromkeys(names, 1.0)
        _refuse_other_folds(options.out, names)
    else:
        asked = dict(zip(SIDES, options.ratios, strict=True))
        _refuse_leftovers(options.out, asked)
    shares, names = list(asked.values()), list(asked)
    alone_counts = options.stratify == "classes"
    sides = divide(
        document, groups, shares, seed=options.seed, sides=names, classes_alone=alone_counts
    )
    with writing(options.out):
        there = [name for name in names if name in sides.values()]
        written = _write(document, sides, there, groups, options, root)
    code, report = _tell(document, sides, groups, asked, root, compare=not options.no_similar)
    if options.report:
        with writing(options.report):
            write_json(options.report, {"seed": options.seed, **report})
        print(f"report: {options.report}")
    print(f"written: {options.out}/" + ", ".join(written))
    return code


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("split", __doc__, EXAMPLES)
    parser.add_argument("coco", type=Path, metavar="COCO.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--ratios",
        type=float,
        nargs=3,
        default=(0.7, 0.15, 0.15),
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the three sides (0.7 0.15 0.15); a side with 0 is not written",
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="K",
        help="K folds instead: DIR/fold1/train.json and val.json, and so on",
    )
    parser.add_argument(
        "--groups",
        metavar="CSV|FIELD",
        help="what belongs together: a field of the images (sample, where it is there), or a CSV "
        "file with a column file, image or image_id and a column group, group_id or sample",
    )
    parser.add_argument("--group-column", metavar="NAME", help="column of the groups in the CSV")
    parser.add_argument(
        "--group-pattern",
        metavar="REGEX",
        help="what belongs together: images in whose names the brackets of REGEX hold the same",
    )
    parser.add_argument(
        "--join-similar",
        action="store_true",
        help="put images that show the same thing, turned or mirrored too, into one group besides",
    )
    parser.add_argument(
        "--stratify",
        choices=("classes+boxes", "classes"),
        default="classes+boxes",
        help="even out classes and images with few and many boxes, or classes alone, as the first "
        "version did (classes+boxes)",
    )
    parser.add_argument(
        "--no-similar",
        action="store_true",
        help="do not compare the pictures of the sides with each other",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE",
        help="write what each side holds, what leaks and which classes are thin, as JSON",
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split (0)")
    options = parser.parse_args(argv)
    shares = " ".join(f"{ratio:g}" for ratio in options.ratios)
    if not all(0 <= ratio < math.inf for ratio in options.ratios) or sum(options.ratios) <= 0:
        raise DataError(f"--ratios: {shares} are not shares; give three, such as 0.7 0.15 0.15.")
    if options.seed < 0:
        raise DataError(f"--seed: {options.seed} is negative; give 0 or more.")
    if options.folds is not None and not 2 <= options.folds <= 100:
        raise DataError(f"--folds: {options.folds} is no number of folds; give 2 to 100.")
    if options.groups is not None and options.group_pattern is not None:
        raise DataError("--groups and --group-pattern: name one of them.")
    return options


def _refuse_leftovers(out: Path, asked: Mapping[str, float]) -> None:
    for side, ratio in asked.items():
        if not ratio and (old := out / f"{side}.json").exists():
            raise DataError(f"{old}: is of an earlier split and would not fit; remove it first.")


def _refuse_other_folds(out: Path, names: list[str]) -> None:
    for old in sorted(out.glob("fold*/val.json")):
        if old.parent.name not in names:
            raise DataError(
                f"{old.parent}: is of an earlier split and would not fit; remove it first."
            )


def _groups(document: dict[str, Any], options: argparse.Namespace) -> dict[Any, str]:
    from detkd.data.split import groups_by_field, groups_by_pattern, groups_by_table, ungrouped

    if options.group_pattern is not None:
        return groups_by_pattern(document, options.group_pattern)
    if options.groups is None:
        sampled = any("sample" in image for image in document["images"])
        return groups_by_field(document, "sample") if sampled else ungrouped(document)
    table = Path(options.groups)
    if table.suffix.lower() == ".csv" or table.is_file():
        return groups_by_table(document, table, options.group_column)
    return groups_by_field(document, options.groups)


def _write(
    document: dict[str, Any],
    sides: Mapping[Any, str],
    names: list[str],
    groups: Mapping[Any, str],
    options: argparse.Namespace,
    root: Path,
) -> list[str]:
    """Write the files of the sides, or of the folds; their names."""
    from detkd.data.split import part_of
    from detkd.files import write_json

    files: dict[str, set[Any]] = {}
    for side in names:
        mine = {image for image, where in sides.items() if where == side}
        if options.folds:
            files[f"{side}/train.json"] = set(sides) - mine
            files[f"{side}/val.json"] = mine
        else:
            files[f"{side}.json"] = mine
    for name, chosen in files.items():
        path = options.out / name
        inside = Path(os.path.relpath(root.resolve(), path.resolve().parent)).as_posix()
        write_json(path, part_of(document, chosen, inside, path.stem, groups))
    return list(files)


def _tell(
    document: dict[str, Any],
    sides: Mapping[Any, str],
    groups: Mapping[Any, str],
    asked: Mapping[str, float],
    root: Path,
    *,
    compare: bool,
) -> tuple[int, dict[str, Any]]:
    """Print what the sides hold and what leaks; the exit code, and the same as a report."""
    from detkd.cli.check_dataset import plain
    from detkd.data.similar import MOST
    from detkd.data.split import leaks, report_of, similar_leaks, thin_classes, undivided

    held = report_of(document, sides, groups, asked)
    _show(held)
    sentence = undivided(groups, held)
    if sentence:
        print(sentence)
    thin = thin_classes(document, groups, sum(row["images"] > 0 for row in held.values()))
    for name, count in thin.items():
        number = "1 group" if count == 1 else f"{count} groups"
        print(plain(f"class '{name}' is in {number}: not every side can hold it"))
    equal = leaks(document, sides, root)
    for first, second in equal[:SHOWN]:
        print(plain(f"leak: {first} and {second} have the same content and are on two sides"))
    alike = []
    if compare and len(sides) <= MOST:
        alike = [pair for pair in similar_leaks(document, sides, root) if pair not in equal]
    for first, second in alike[:SHOWN]:
        print(plain(f"similar: {first} and {second} show the same and are on two sides"))
    print(f"leaks: {len(equal)} pairs of equal images on two sides; no group is on two sides")
    if alike:
        print(
            f"{len(alike)} pairs of similar images on two sides; --join-similar keeps them together"
        )
    report = {
        "sides": held,
        "sentence": sentence,
        "thin_classes": thin,
        "leaks": equal,
        "similar": alike,
    }
    return int(bool(equal)), report


def _show(held: Mapping[str, Mapping[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from detkd.cli.check_dataset import plain

    table = Table(title="split")
    table.add_column("")
    for side in held:
        table.add_column(side, justify="right")
    for key in ("images", "groups", "boxes"):
        row = (str(side[key]) for side in held.values())
        table.add_row(key, *row, end_section=key == "boxes")
    for name in next(iter(held.values()))["classes"]:
        table.add_row(plain(name), *(str(side["classes"][name]) for side in held.values()))
    Console().print(table)
