"""Judge a classifier: scores, by class, calibration, intervals, what is unknown, early exits.

The images are those of the checkpoint's own config: --side val or test. Temperature and thresholds
are chosen on its validation images. With --data, all images of another source are judged.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.cli.parser import build_parser
from detkd.errors import DataError

if TYPE_CHECKING:
    from detkd.models.classifier import Classifier

EXAMPLES = """examples:
  detkd eval-cls --checkpoint runs/marine-distill/best.pt --side test --bootstrap 1000 --out judged
  detkd eval-cls --checkpoint runs/marine-distill/best.pt --against runs/marine-student
  detkd eval-cls --checkpoint runs/self-resnet18/best.pt --cut c3 --cut-out resnet18-c3.pt
"""


def main(argv: list[str]) -> int:
    parser = build_parser("eval-cls", __doc__, EXAMPLES)
    parser.add_argument("--checkpoint", required=True, type=Path, help="a best.pt of train-cls")
    parser.add_argument("--side", choices=["val", "test"], default="val", help="(val)")
    parser.add_argument("--data", type=Path, help="other images: class folders or a CSV")
    parser.add_argument("--train-data", type=Path, help="where the config's images lie now")
    parser.add_argument("--out", type=Path, help="for metrics.json, predictions.json, plots/")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="RUN",
        help="run folder or predictions.json of another run on the same images: paired test",
    )
    parser.add_argument(
        "--bootstrap", type=int, default=0, metavar="N", help="draws for intervals over samples"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--cut", metavar="STAGE", help="judge the network cut at this exit")
    parser.add_argument("--cut-out", type=Path, metavar="FILE", help="write it as a checkpoint")
    options = parser.parse_args(argv)
    if options.bootstrap < 0:
        raise DataError(f"--bootstrap: {options.bootstrap} is negative; give 0 or more.")

    from detkd.engine.class_parts import judge_side, write_class_judgement
    from detkd.engine.devices import choose_device
    from detkd.evaluation.class_intervals import compare_paired
    from detkd.evaluation.class_judge import aligned, read_predictions

    network = _network(options)
    judged, validation = _images(options, network)
    network.to(choose_device(options.device))
    said, metrics = judge_side(network, judged, validation, bootstrap=options.bootstrap)
    if options.against:
        path = options.against
        path = path / "predictions.json" if path.is_dir() else path
        other = aligned(said, read_predictions(path), (str(options.checkpoint), str(path)))
        metrics["against"] = compare_paired(other, said.probabilities, said.labels, said.groups)
    _show(metrics)
    if options.out:
        write_class_judgement(options.out, said, metrics, judged)
        print(f"written: {options.out}/metrics.json, predictions.json, plots/")
    return 0


def _network(options: argparse.Namespace) -> Classifier:
    """The classifier of the checkpoint, or what is left of it when it is cut."""
    from detkd.errors import ConfigError
    from detkd.files import write_with
    from detkd.models.classifier import Classifier, cut_at
    from detkd.models.weights import read_checkpoint

    network = Classifier.load(options.checkpoint)
    if options.cut_out and not options.cut:
        raise ConfigError("--cut-out: names a file, and --cut names no stage to cut at.")
    if options.cut:
        network = cut_at(network, options.cut)
    if options.cut_out:
        import torch

        checkpoint = read_checkpoint(options.checkpoint)
        checkpoint.pop("training", None)
        checkpoint["config"]["model"]["cut"] = options.cut
        checkpoint |= {"weights": network.state_dict(), "score": None}
        write_with(options.cut_out, lambda stream: torch.save(checkpoint, stream))
        print(f"written: {options.cut_out}")
    return network


def _images(options: argparse.Namespace, network: Classifier) -> Any:
    """The images that are judged, and the validation images; one data set where they are one."""
    from detkd.config import ClassDataConfig
    from detkd.data.class_dataset import ClassDataset
    from detkd.data.labelled_images import LabelledSet, read_labelled
    from detkd.engine.class_parts import sides_of
    from detkd.models.weights import read_checkpoint

    def dataset(data: LabelledSet) -> ClassDataset:
        if not set(data.classes) <= set(network.classes):
            unknown = sorted(set(data.classes) - set(network.classes))[0]
            raise DataError(
                f"{data.source}: has a class '{unknown}' that {options.checkpoint} does not know."
            )
        numbered = LabelledSet(data.source, data.root, network.classes, data.images)
        return ClassDataset(
            numbered, image_size=network.image_size, cache="none", levels=network.levels
        )

    config = ClassDataConfig(**read_checkpoint(options.checkpoint)["config"]["data"])
    if options.train_data:
        config.train = str(options.train_data)
    sides = sides_of(config)
    validation = dataset(sides.val)
    if options.data:
        other = read_labelled(options.data)
        try:
            other = other.grouped(config.group_pattern, config.group_gap)
        except DataError:
            print(f"{options.data}: data.group_pattern matches no name; each image stands alone")
        return dataset(other), validation
    return (validation if options.side == "val" else dataset(sides.of("test"))), validation


def _show(metrics: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from detkd.cli.check_dataset import plain

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.3f}"

    console = Console()
    calibration, unknown = metrics["calibration"], metrics["unknown"]
    table = Table(title="classes")
    table.add_column("measure")
    table.add_column("value", justify="right")
    table.add_column("95 % by sample", justify="right")
    for name, value in metrics["classes"].items():
        interval = metrics["intervals"].get(name)
        table.add_row(name, number(value), " to ".join(map(number, interval)) if interval else "")
    table.add_row("calibration error", number(calibration["ece"]), "")
    scaled = f"at temperature {calibration['temperature']:.2f}"
    table.add_row(scaled, number(calibration["ece_scaled"]), "")
    console.print(table)
    classes = Table(title="per class")
    for name in ("class", "precision", "recall", "F1", "truths"):
        classes.add_column(name, justify="left" if name == "class" else "right")
    for name, row in metrics["per_class"].items():
        shown = [number(row[key]) for key in ("precision", "recall", "f1")]
        classes.add_row(plain(name), *shown, str(row["truths"]))
    console.print(classes)
    if unknown["threshold"] is not None:
        console.print(
            f"'unknown' below {unknown['threshold']:.2f}: {unknown['coverage']:.0%} get a class, "
            f"of which {number(unknown['accuracy'])} are right"
        )
    if early := metrics.get("early"):
        for name, row in early["exits"].items():
            console.print(
                f"exit {name}: top-1 {number(row['top1'])}, {row['flops'] / 1e6:.1f} MFLOPs, "
                f"{row['share']:.0%} of the images stop there"
            )
        console.print(
            f"stopping early: top-1 {number(early['early']['top1'])}, {early['saved']:.0%} of the "
            "operations saved"
        )
    for name, row in metrics.get("against", {}).items():
        if name == "mcnemar":
            console.print(
                f"right alone: {row['only_second']} images here, {row['only_first']} there "
                f"(McNemar p = {row['p']:.3f})"
            )
        else:
            low, high = row["interval"]
            console.print(
                f"{name}: {row['difference']:+.3f} ({low:+.3f} to {high:+.3f}), p = {row['p']:.3f}"
            )
