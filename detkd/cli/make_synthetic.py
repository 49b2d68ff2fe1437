"""Render brightfield scenes of phytoplankton as a PASCAL VOC tree.

detkd synth datasets/synthetic/scenes --images 240
detkd synth datasets/pmid_like --images 1000 --taxa all --size 480 640
detkd synth --sheet scenes.png
"""

from __future__ import annotations

from pathlib import Path

from detkd.cli.parser import build_parser
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    parser = build_parser("synth", __doc__)
    parser.add_argument("out", nargs="?", type=Path, metavar="OUT", help="new folder of the tree")
    parser.add_argument("--images", type=int, default=240, metavar="N")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, nargs=2, default=(240, 320), metavar=("H", "W"))
    parser.add_argument(
        "--taxa",
        nargs="+",
        default=["demo"],
        metavar="NAME",
        help="'demo' (8 taxa), 'all' (24), or names",
    )
    parser.add_argument("--samples", type=int, default=40, help="water samples to render")
    parser.add_argument(
        "--sheet", type=Path, metavar="FILE", help="only draw a contact sheet of 8 scenes"
    )
    options = parser.parse_args(argv)
    if min(*options.size, options.images, options.samples) < 1:
        raise DataError("--images, --samples and --size must be 1 or more.")

    from rich.progress import track

    from detkd.data.synthetic import DEMO_TAXA, TAXA, write_scenes, write_sheet

    taxa = {"demo": list(DEMO_TAXA), "all": list(TAXA)}.get(options.taxa[0], options.taxa)
    unknown = [name for name in taxa if name not in TAXA]
    if unknown:
        raise DataError(f"--taxa: no taxon '{unknown[0]}'; there are {', '.join(TAXA)}.")
    if options.sheet:
        write_sheet(options.sheet, seed=options.seed, size=tuple(options.size), taxa=taxa)
        print(f"written: {options.sheet}")
        return 0
    if options.out is None:
        raise DataError("name the folder to write, or --sheet FILE.")
    ticks = iter(track(range(options.images), description="rendering"))
    next(ticks, None)
    boxes = write_scenes(
        options.out,
        options.images,
        seed=options.seed,
        size=tuple(options.size),
        taxa=taxa,
        samples=options.samples,
        progress=lambda: next(ticks, None),
    )
    print(f"written: {options.out}: {options.images} images, {sum(boxes.values())} boxes")
    for name, count in boxes.most_common():
        print(f"  {count:5d} {name}")
    print(f"next:    detkd convert {options.out} {options.out}.json")
    return 0
