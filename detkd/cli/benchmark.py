"""Measure ratios of speed in one run: nothing here is compared over machines or days.

detkd bench train      a step of our loop against a plain PyTorch loop, teacher and student
detkd bench distill    a distilling step against a plain step plus the teacher's forward pass; of
                       your own configs with --config distill.yaml --teacher teacher.yaml
detkd bench classify   the marine student: a distilling step with and without a cache, one image in
                       ONNX Runtime against MobileNetV3-small, and what stopping at an exit saves
detkd bench loading    share of an epoch that the loop waits for data
detkd bench eval       mAP against hotcoco alone, and the command against json.load
detkd bench bootstrap  1,000 draws: their time, exactness and coverage
detkd bench convert    VOC to COCO, everything checked, against bare parsing of the same files
detkd bench empty      what the runner's test for empty frames passes over and loses (--gt FILE)
detkd bench costs      parameters and operations of the compressed classifiers and their exits
detkd bench cost       where a detector's time goes, part by part; see detkd bench cost --help
detkd bench pareto     mAP against time of a study's detectors; see detkd bench pareto --help
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.cli.parser import build_parser
from detkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from detkd.config import Experiment

NAMES = (
    *("train", "distill", "classify", "loading", "convert", "eval", "bootstrap", "empty"),
    "costs",
)
SIZES = {"classify": (96, 32)}  # px and images a batch, where they are others than (256, 8)


def main(argv: list[str]) -> int:
    if argv[:1] == ["cost"]:
        from detkd.cli import bench_cost

        return bench_cost.main(argv[1:])
    if argv[:1] == ["pareto"]:
        from detkd.cli import bench_pareto

        return bench_pareto.main(argv[1:])
    parser = build_parser("bench", __doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--steps", type=int, default=12, help="timed steps of each kind")
    parser.add_argument("--image-size", type=int, help="px (256, of classify 96)")
    parser.add_argument("--batch-size", type=int, help="images (8, of classify 32)")
    parser.add_argument("--images", type=int, default=10_819, help="files to convert (10819)")
    parser.add_argument("--gt", type=Path, metavar="FILE", help="annotated images, for empty")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="of distill: a student's config"
    )
    parser.add_argument("--teacher", type=Path, metavar="FILE", help="of distill: its teacher's")
    parser.add_argument("--run", type=Path, help="of classify: a run whose exits are counted with")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    options = parser.parse_args(argv)
    usual = SIZES.get(options.name, (256, 8))
    options.image_size = usual[0] if options.image_size is None else options.image_size
    options.batch_size = usual[1] if options.batch_size is None else options.batch_size
    if min(options.steps, options.image_size, options.batch_size) < 1:
        raise ConfigError("--steps, --image-size and --batch-size: are 1 or more.")
    if options.name == "costs":
        _costs(options.image_size, options.out)
        return 0

    from detkd.files import write_json

    figures = _measure(options)
    print(json.dumps(figures, indent=1))
    if options.out:
        write_json(options.out, figures)
    return 0


def _measure(options: argparse.Namespace) -> dict[str, Any]:
    if options.name == "convert":
        from detkd.engine.bench_convert import bench_convert

        return bench_convert(max(1, options.images))
    if options.name == "empty":
        from detkd.deploy.empty_frames import measure_empty

        if options.gt is None:
            raise DataError("bench empty: name annotated images, --gt FILE.")
        return measure_empty(options.gt)
    if options.name in ("eval", "bootstrap"):
        from detkd.engine.judging_benchmarks import bench_bootstrap, bench_eval

        return bench_eval() if options.name == "eval" else bench_bootstrap()
    if options.name == "classify":
        return _classify(options)
    from detkd.engine.benchmarks import bench_distill, bench_loading, bench_train

    sizes = (options.steps, options.image_size, options.batch_size)
    if options.name == "distill":
        return bench_distill(*sizes, _pair(options.config, options.teacher))
    return (bench_train if options.name == "train" else bench_loading)(*sizes)


def _pair(config: Path | None, teacher: Path | None) -> tuple[Experiment, Experiment] | None:
    """The experiments of a distilled student and of its teacher."""
    from detkd.cli.bench_cost import experiment_of

    if config is None and teacher is None:
        return None
    if config is None or teacher is None:
        raise ConfigError("bench distill: give both, --config of the student and --teacher.")
    student, other = (experiment_of(["--config", str(file)]) for file in (config, teacher))
    if student.distill is None:
        raise ConfigError(f"{config}: has no 'distill'; name the config of a distilled student.")
    return student, other


def _classify(options: argparse.Namespace) -> dict[str, Any]:
    import tempfile

    from detkd.deploy.onnx_classifier import OnnxClassifier, write_onnx_classifier
    from detkd.engine.class_benchmarks import bench_classify
    from detkd.models.classifier import Classifier

    def deploy(network: Classifier) -> OnnxClassifier:
        with tempfile.TemporaryDirectory() as folder:
            write_onnx_classifier(network, Path(folder) / "model.onnx")
            return OnnxClassifier(Path(folder) / "model.onnx", threads=1)

    sizes = (options.steps, options.image_size, options.batch_size)
    return bench_classify(*sizes, deploy=deploy, run=options.run)


def _costs(image_size: int, out: Path | None) -> None:
    """The tables of full and cheaper convolutions and of exits, for 19 classes."""
    from dataclasses import asdict

    from detkd.files import write_json
    from detkd.models.costs import (
        WITH_EXITS,
        compressed_family,
        cost_table,
        exit_table,
        exits_markdown,
        table_markdown,
    )

    found: dict[str, Any] = {}
    for name in ("resnet18", "resnet50", "vgg11"):
        table = cost_table(compressed_family(name), classes=19, image_size=image_size)
        print(table_markdown(table))
        found |= {each: asdict(cost) for each, cost in table.items()}
    found["exits"] = {}
    for name, config in WITH_EXITS.items():
        exits, alone = exit_table(config, classes=19, image_size=image_size)
        print(exits_markdown(name, exits, alone))
        found["exits"][name] = {at: asdict(cost) for at, cost in {"alone": alone, **exits}.items()}
    if out:
        write_json(out, found)
