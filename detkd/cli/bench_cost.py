"""Where a detector's time goes: parameters, operations and ms of each part, in torch and exported.

detkd bench cost --checkpoint runs/bccd-distill/best.pt --gt datasets/bccd/val.json
detkd bench cost --config configs/bccd/student.yaml --against configs/bccd/teacher.yaml --classes 3
detkd bench cost --config configs/bccd/student.yaml --classes 3 --out cost.json \\
    --vary model.proposals=50 --vary model.levels=[p3,p4] model.neck_channels=64
detkd bench cost --study configs/microalgae/pareto.yaml --classes 6

All take turns on the same frames. A config has random weights, norms that fit the frames, and,
where its anchors are to be measured on data, anchors four strides wide; see docs/cost.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.cli.parser import build_parser
from detkd.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from detkd.config import Experiment
    from detkd.deploy.cost_table import Candidate, Table


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from rich.progress import Progress

    from detkd.deploy.cost_picture import plot_costs
    from detkd.deploy.cost_table import document, measure, tables
    from detkd.deploy.onnx_model import needed
    from detkd.files import write_atomic, write_json
    from detkd.markdown import markdown_table

    if options.onnx:
        needed()
    frames = _Frames(options)
    candidates = [
        _candidate(name, each, frames, options) for name, each in _wanted(options).items()
    ]
    with Progress(transient=True) as bar:
        task = bar.add_task("", total=None)
        rows = measure(
            candidates,
            repeats=options.repeat,
            threads=options.threads,
            onnx=options.onnx,
            progress=lambda what: bar.update(task, description=what),
        )
    found = document(rows, frames=frames.said, threads=options.threads, repeats=options.repeat)
    for table in tables(rows):
        _show(table)
    print(found["measured"])
    if options.out:
        text = "\n".join([*map(markdown_table, tables(rows)), found["measured"]]) + "\n"
        write_json(options.out, found)
        write_atomic(options.out.with_suffix(".md"), text)
        plot_costs(rows, options.out.with_suffix(".png"))
        print(f"written: {options.out}, and .md and .png beside it")
    return 0


class _Frames:
    """The frames of each size, made once."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.of_size: dict[int, list[Tensor]] = {}
        count = f"the first {options.frames} images of {options.gt}"
        self.said = count if options.gt else "a square frame of noise (seed 0)"

    def __getitem__(self, size: int) -> list[Tensor]:
        from detkd.deploy.cost_subjects import noise_frame, real_frames

        if size not in self.of_size:
            gt, images = self.options.gt, self.options.images
            self.of_size[size] = (
                real_frames(gt, images, size, self.options.frames) if gt else [noise_frame(size)]
            )
        return self.of_size[size]


def _candidate(
    name: str, wanted: Experiment | Path, frames: _Frames, options: argparse.Namespace
) -> Candidate:
    from detkd.deploy.cost_subjects import at_size, untrained_detector
    from detkd.deploy.cost_table import Candidate
    from detkd.models.detector import Detector

    if isinstance(wanted, Path):
        detector = Detector.load(wanted)
        if options.image_size:
            detector = at_size(detector, options.image_size)
        return Candidate(name, detector, frames[detector.image_size])
    size = options.image_size or wanted.data.image_size
    classes = options.classes or class_count(wanted)
    return Candidate(
        name, untrained_detector(wanted.model, classes, size, frames[size]), frames[size]
    )


def class_count(experiment: Experiment) -> int:
    """How many classes its training data has, as its file says."""
    from detkd.data.dataset import read_coco

    path = Path(experiment.data.train)
    if not path.is_file():
        raise ConfigError(f"{path}: is not there to say how many classes there are; --classes N.")
    return len(read_coco(path)["categories"])


def _wanted(options: argparse.Namespace) -> dict[str, Experiment | Path]:
    """The experiments and checkpoints to be measured, by the name that each has in the table."""
    from detkd.engine.study import plan, read_study

    found: dict[str, Any] = {}

    def add(name: str, wanted: Experiment | Path) -> None:
        if name in found:
            raise ConfigError(f"'{name}': is named twice; name each detector once.")
        found[name] = wanted

    if options.study:
        seen: list[Any] = []
        for task in plan(read_study(options.study), [0], experiment_of, options.rows):
            experiment = experiment_of(task.arguments)
            what = (experiment.model, experiment.data.image_size)
            if what not in seen:  # rows that differ in their training cost the same
                seen.append(what)
                add(task.row, experiment)
    first = [each for each in (options.config, options.checkpoint) if each]
    for file in [*first, *options.against]:
        if file.suffix in (".yaml", ".yml"):
            experiment = experiment_of(["--config", str(file)])
            add(experiment.name, experiment)
        else:
            add(str(file.parent / file.stem), file)
    for changes in options.vary:
        wrong = next((change for change in changes if "=" not in change), None)
        if wrong:
            raise ConfigError(f"--vary: '{wrong}' is no KEY=VALUE, such as model.proposals=50.")
        arguments = ["--config", str(options.config), *(f"--{change}" for change in changes)]
        name = ", ".join(change.removeprefix("model.") for change in changes)
        add(name, experiment_of(arguments))
    return found


def experiment_of(arguments: list[str]) -> Experiment:
    """The experiment of the arguments of `detkd train`."""
    from detkd.cli.arguments import read_experiment

    return read_experiment("detkd train", arguments, description="", epilog="")[0]


def _show(table: Table) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table as Shown

    shown = Shown(box=box.SIMPLE, padding=(0, 1, 0, 0))
    for at, title in enumerate(table[0]):
        shown.add_column(escape(title), justify="right" if at else "left", no_wrap=at > 0)
    for line in table[1:]:
        shown.add_row(*map(escape, line))
    console = Console()
    console.width = max(console.width, 110)  # a narrow window would cut the names off
    console.print(shown)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("bench cost", __doc__)
    add = parser.add_argument
    add("--config", type=Path, metavar="FILE", help="YAML file of an experiment")
    add("--checkpoint", type=Path, metavar="FILE", help="a detector's best.pt")
    add("--study", type=Path, metavar="FILE", help="a study: every detector of its rows")
    add("--rows", nargs="+", default=[], metavar="ROW", help="of the study, these alone")
    add("--against", type=Path, nargs="+", default=[], metavar="FILE", help="more of either kind")
    add(
        "--vary",
        nargs="+",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="the config with these values; again for one more",
    )
    add("--gt", type=Path, metavar="FILE", help="COCO file of real frames (else one of noise)")
    add("--images", type=Path, metavar="FOLDER", help="folder of its images (else it says)")
    add("--frames", type=int, default=8, metavar="N", help="how many of its first images (8)")
    add("--classes", type=int, metavar="N", help="of configs (else their training file says)")
    add("--image-size", type=int, metavar="N", help="longest side in px (else theirs)")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads of each runtime (1)")
    add("--repeat", type=int, default=40, metavar="N", help="timed rounds (40)")
    add("--no-onnx", dest="onnx", action="store_false", help="torch alone, nothing is exported")
    add("--out", type=Path, metavar="FILE", help="write FILE (JSON), and a .md and .png beside it")
    options = parser.parse_args(argv)
    if sum(each is not None for each in (options.config, options.checkpoint, options.study)) != 1:
        parser.error("give one of --config, --checkpoint and --study")
    if options.vary and not options.config:
        parser.error("--vary changes a --config, and there is none")
    if options.rows and not options.study:
        parser.error("--rows are a --study's, and there is none")
    for name, least in {
        "frames": 1,
        "classes": 1,
        "image_size": 32,
        "threads": 1,
        "repeat": 4,
    }.items():
        value = getattr(options, name)
        if value is not None and value < least:
            parser.error(f"--{name.replace('_', '-')}: {value} is less than {least}")
    if options.out and options.out.suffix != ".json":
        parser.error(f"--out: {options.out} does not end in .json")
    return options
