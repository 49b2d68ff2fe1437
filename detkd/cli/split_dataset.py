"""Split a COCO file into train, val and test that share no sample, stratified by class.

Ends with 1 if the same picture lies on two sides under two names.
"""

from __future__ import annotations

import argparse
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

from detkd.cli.parser import build_parser
from detkd.errors import DataError

EXAMPLES = """examples:
  detkd split datasets/mine/all.json --out datasets/mine --groups sample
  detkd split datasets/mine/all.json --out datasets/mine --groups slides.csv --ratios 0.8 0.2 0
"""
SHOWN = 10  # leaks that are named


def main(argv: list[str]) -> int:
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
        "--groups",
        metavar="CSV|FIELD",
        help="what belongs together: a field of the images (sample, where it is there), or a CSV "
        "file with a column file, image or image_id and a column group, group_id or sample",
    )
    parser.add_argument("--group-column", metavar="NAME", help="column of the groups in the CSV")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another split (0)")
    options = parser.parse_args(argv)
    shares = " ".join(f"{ratio:g}" for ratio in options.ratios)
    if not all(0 <= ratio < math.inf for ratio in options.ratios) or sum(options.ratios) <= 0:
        raise DataError(f"--ratios: {shares} are not shares; give three, such as 0.7 0.15 0.15.")
    if options.seed < 0:
        raise DataError(f"--seed: {options.seed} is negative; give 0 or more.")

    from detkd.data.convert import writing
    from detkd.data.formats.coco import image_root, read_document
    from detkd.data.split import SIDES, alone, divide, leaks, part_of, thin_classes
    from detkd.files import write_json

    document = read_document(options.coco)
    for side, ratio in zip(SIDES, options.ratios, strict=True):
        if not ratio and (old := options.out / f"{side}.json").exists():
            raise DataError(f"{old}: is of an earlier split and would not fit; remove it first.")
    groups = _groups(document, options)
    if alone(groups):
        print(f"{alone(groups)} images are in no group; each stands alone")
    sides = divide(document, groups, options.ratios, seed=options.seed)
    root = image_root(options.coco, document.get("info"))
    inside = Path(os.path.relpath(root.resolve(), options.out.resolve())).as_posix()
    written = [side for side in SIDES if side in sides.values()]
    with writing(options.out):
        for side in written:
            chosen = {image for image, where in sides.items() if where == side}
            write_json(options.out / f"{side}.json", part_of(document, chosen, inside))
    _show(document, sides, groups)
    for name, count in thin_classes(document, groups, len(written)).items():
        print(f"class '{name}' is in {count} groups: not every side can hold it")
    leaking = leaks(document, sides, root)
    for first, second in leaking[:SHOWN]:
        print(f"leak: {first} and {second} have the same content and are on two sides")
    print(f"leaks: {len(leaking)} pairs of equal images on two sides; no group is on two sides")
    print(f"written: {options.out}/" + ", ".join(f"{side}.json" for side in written))
    return 1 if leaking else 0


def _groups(document: dict[str, Any], options: argparse.Namespace) -> dict[Any, str]:
    from detkd.data.split import groups_by_field, groups_by_table

    if options.groups is None:
        sampled = any("sample" in image for image in document["images"])
        return groups_by_field(document, "sample" if sampled else "id")
    table = Path(options.groups)
    if table.suffix.lower() == ".csv" or table.is_file():
        return groups_by_table(document, table, options.group_column)
    return groups_by_field(document, options.groups)


def _show(document: dict[str, Any], sides: dict[Any, str], groups: dict[Any, str]) -> None:
    from rich.console import Console
    from rich.table import Table

    from detkd.cli.check_dataset import plain
    from detkd.data.split import SIDES

    boxes = Counter((sides[b["image_id"]], b["category_id"]) for b in document["annotations"])
    images = Counter(sides.values())
    held = {side: len({groups[i] for i, where in sides.items() if where == side}) for side in SIDES}
    table = Table(title="split")
    table.add_column("")
    for side in SIDES:
        table.add_column(side, justify="right")
    table.add_row("images", *(str(images[side]) for side in SIDES))
    table.add_row("groups", *(str(held[side]) for side in SIDES), end_section=True)
    for category in document["categories"]:
        counts = (str(boxes[side, category["id"]]) for side in SIDES)
        table.add_row(plain(category["name"]), *counts)
    Console().print(table)
