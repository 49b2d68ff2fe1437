"""Convert annotations: VOC, YOLO or COCO to COCO, VOC or YOLO, with a report of every problem.

detkd convert my_voc_folder datasets/mine/all.json
detkd convert my_yolo_folder datasets/mine/all.json --classes classes.txt --report problems.json
detkd convert datasets/mine/all.json mine_as_voc --to voc
"""

from __future__ import annotations

import argparse
from pathlib import Path

from detkd.cli.check_dataset import add_source, read_classes, show
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="detkd convert",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_source(parser)
    parser.add_argument(
        "destination",
        type=Path,
        metavar="DST",
        help="a file that ends in .json (COCO), or a new folder",
    )
    parser.add_argument(
        "--to",
        dest="target",
        choices=["coco", "voc", "yolo"],
        help="format of DST (coco if it ends in .json)",
    )
    parser.add_argument(
        "--strict", action="store_true", help="write nothing and end with 1 if there is any problem"
    )
    options = parser.parse_args(argv)
    target = options.target or ("coco" if options.destination.suffix == ".json" else None)
    if target is None:
        raise DataError(
            f"{options.destination}: say what it shall be with --to voc or --to yolo, or name a "
            "file that ends in .json for COCO."
        )

    from detkd.data.check import examine
    from detkd.data.convert import write_dataset
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
    if options.strict and examined.problems:
        print(f"{options.destination}: not written, for --strict was asked for")
        return 1
    lost = write_dataset(examined, options.destination, target)
    if lost:
        print(f"{target} cannot hold, and so does not: {', '.join(lost)}")
    print(f"written: {options.destination}")
    return 0
