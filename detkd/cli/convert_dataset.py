"""Convert annotations of any format to COCO, VOC or YOLO, with a report of every problem.

Problems are mended or dropped, and told; with --strict nothing is written if there is any.
"""

from __future__ import annotations

from pathlib import Path

from detkd.cli.check_dataset import add_source, examine_source, show
from detkd.cli.parser import build_parser
from detkd.errors import DataError

EXAMPLES = """examples:
  detkd convert my_voc_folder datasets/mine/all.json
  detkd convert my_yolo_folder datasets/mine/all.json --classes classes.txt --report problems.json
  detkd convert datasets/mine/all.json mine_as_voc --to voc
  detkd convert cvat/annotations.xml datasets/mine/all.json
"""
TARGETS = ("coco", "voc", "yolo", "yolo-seg")


def main(argv: list[str]) -> int:
    parser = build_parser("convert", __doc__, EXAMPLES)
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
        choices=TARGETS,
        help="format of DST (coco if it ends in .json); yolo-seg keeps polygons",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="write nothing and end with 1 if there is any problem",
    )
    options = parser.parse_args(argv)
    is_json = options.destination.suffix.lower() == ".json"
    target = options.target or ("coco" if is_json else None)
    if target is None:
        raise DataError(
            f"{options.destination}: say what it shall be with --to voc or --to yolo, or name a "
            "file that ends in .json for COCO."
        )

    from detkd.data.convert import check_destination, write_dataset, writing

    with writing(options.destination):
        check_destination(options.destination, target)
    # Looking at every picture takes its time; who is strict wants all to be looked at.
    examined = examine_source(options, similar=options.strict)
    show(examined, options.report)
    if options.strict and examined.problems:
        print(f"{options.destination}: not written, for --strict was asked for")
        return 1
    lost = write_dataset(examined, options.destination, target)
    if lost:
        print(f"{target} cannot hold, and so does not: {', '.join(lost)}")
    print(f"written: {options.destination}")
    return 0
