"""The options of the command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.shapes import SHAPES
from detkd.deploy.counting.tables import MOST


class Parser(argparse.ArgumentParser):
    """Says what is wrong with an argument in one sentence."""

    def error(self, message: str) -> NoReturn:
        """Raise it, in place of ending the program."""
        raise CountingError(f"{message}; '{self.prog} --help' tells what there is.")


def parse(argv: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """The options; `prog` is what a person types to run it.

    Raises:
        CountingError: they make no sense.
    """
    parser = Parser(
        prog=prog,
        description=f"Cells per litre from what a detector has found.\n\n"
        f"  {prog} FOUND --out counts\n"
        f"  {prog} FOUND --out counts --chamber-depth-um 100 --um-per-px 0.5 --dilution 10\n"
        f"  {prog} FOUND --out counts --frame-volume-ml 2e-4 --settled-ml 50 --concentrate-ml 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("found", type=Path, metavar="FOUND", help="folder with frames.csv, results.csv, run.json")
    add("--out", required=True, type=Path, help="the folder to be written")
    add("--images", type=Path, help="folder of the images (else run.json says)")
    which = parser.add_argument_group("samples (else folders, or all frames are one)")
    add = which.add_argument
    add(
        "--sample", choices=("folder", "all"), help="a frame's folder is its sample, or all are one"
    )
    add("--sample-pattern", metavar="REGEX", help="its first group in a frame's path is the sample")
    add(
        "--samples",
        type=Path,
        metavar="FILE.csv",
        help="columns file and sample, or sample alone, and of the options below those that differ "
        "between samples: frame_volume_ml, chamber_depth_um, volume_ml, dilution, settled_ml, "
        "concentrate_ml",
    )
    water = parser.add_argument_group("water: one of the first three, for concentrations")
    add = water.add_argument
    add("--frame-volume-ml", type=float, metavar="V", help="water that a frame shows")
    add("--chamber-depth-um", type=float, metavar="D", help="depth of the chamber, with a scale")
    add(
        "--sample-volume-ml",
        dest="volume_ml",
        type=float,
        metavar="V",
        help="water that all frames of a sample show together",
    )
    add("--dilution", type=float, metavar="F", help="the sample was diluted 1:F before")
    add("--settled-ml", type=float, metavar="S", help="water that was settled or filtered ...")
    add("--concentrate-ml", type=float, metavar="C", help="... and what it was concentrated to")
    size = parser.add_argument_group("sizes")
    add = size.add_argument
    add("--um-per-px", type=float, metavar="UM", help="scale of the frames (else run.json says)")
    add(
        "--shapes",
        type=Path,
        metavar="FILE",
        help="a CSV of class, shape and, if you like, depth_ratio; detkd reads data-set cards too. "
        f"Shapes: {', '.join(SHAPES)}",
    )
    add(
        "--depth-ratio",
        type=float,
        default=1.0,
        metavar="R",
        help="depth of a cell as a share of its width, of shapes that have a depth (1)",
    )
    chance = parser.add_argument_group("intervals")
    add = chance.add_argument
    add(
        "--interval",
        choices=("auto", "poisson", "bootstrap"),
        default="auto",
        help="auto: Poisson's, and the bootstrap's over frames where counts vary too much for it",
    )
    add("--level", type=float, default=0.95, help="of the intervals (0.95)")
    add("--draws", type=int, default=2000, help="of the bootstrap (2000)")
    add("--seed", type=int, default=0, help="of the bootstrap and of the pictures (0)")
    options = parser.parse_args(argv)
    _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    for name in ("um_per_px", "depth_ratio"):
        value = getattr(options, name)
        if value is not None and not 0 < value < MOST:
            raise CountingError(
                f"--{name.replace('_', '-')}: {value:g} makes no sense; give more than 0."
            )
    if not 0.5 <= options.level < 1:
        raise CountingError(f"--level: {options.level:g} is not from 0.5 to below 1.")
    if not 100 <= options.draws <= 1_000_000:
        raise CountingError(f"--draws: {options.draws} is not from 100 to 1,000,000.")
    if options.seed < 0:
        raise CountingError(f"--seed: {options.seed} is below 0.")
