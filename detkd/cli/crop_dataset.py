"""Cut the objects of a COCO data set out, as images with one label each, for a classifier.

OUT gets a folder a class and crops.csv with file, label and group: the sample, or the image where
no sample is named, so that a split keeps crops of one image together.
"""

from __future__ import annotations

import math
from pathlib import Path

from detkd.cli.parser import build_parser
from detkd.errors import DataError

EXAMPLES = """examples:
  detkd crop datasets/mine/all.json crops/mine --margin 0.15
  detkd crop datasets/mine/all.json crops/mine --background 2 --unknown debris bubble
  detkd train-cls --config configs/marine/student.yaml --data.train crops/mine/crops.csv
"""
SHOWN = 3


def main(argv: list[str]) -> int:
    parser = build_parser("crop", __doc__, EXAMPLES)
    parser.add_argument("coco", type=Path, metavar="COCO.json")
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--images", type=Path, help="folder of the images (else COCO.json says)")
    parser.add_argument("--margin", type=float, default=0.1, help="added a side, of the box (0.1)")
    parser.add_argument(
        "--background", type=int, default=0, metavar="N", help="crops without an object an image"
    )
    parser.add_argument(
        "--unknown", nargs="+", default=[], metavar="CLASS", help="classes that become 'unknown'"
    )
    parser.add_argument(
        "--smallest", type=float, default=4.0, metavar="PX", help="shorter side of a box, at least"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the places of background (0)")
    options = parser.parse_args(argv)
    if not 0 <= options.margin <= 4 or options.background < 0 or options.seed < 0:
        raise DataError("--margin is from 0 to 4; --background and --seed are 0 or more.")
    if not 0 <= options.smallest < math.inf:
        raise DataError(f"--smallest: {options.smallest} are no px; give 0 or more.")

    from detkd.data.crops import CropRule, write_crops
    from detkd.data.formats.coco import image_root, read_document

    document = read_document(options.coco)
    root = options.images or image_root(options.coco, document.get("info"))
    rule = CropRule(
        options.margin, options.background, options.unknown, options.smallest, options.seed
    )
    told = write_crops(document, root, options.out, rule)
    for label, count in sorted(told.written.items()):
        print(f"{label}: {count}")
    if told.small:
        print(f"{told.small} boxes were too small or outside their image, and were left out")
    if told.crowded:
        print(
            f"{told.crowded} of the {told.asked} places without an object were not found: there is "
            "no room for one of an object's size"
        )
    if told.unreadable:
        named = ", ".join(told.unreadable[:SHOWN])
        print(f"{len(told.unreadable)} images cannot be read and were left out: {named}")
    print(f"written: {options.out}/crops.csv, {sum(told.written.values())} crops")
    return 1 if told.unreadable else 0
