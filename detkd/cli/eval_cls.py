"""Judge a classifier: scores, by class, calibration, intervals, what is unknown, early exits.

The images are those of the checkpoint's own config: --side val or test. With --data, all images of
another source are judged. Temperature and thresholds are those of the checkpoint, which were chosen
on the validation images when its training ended; of a network that is cut they are chosen anew.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.cli.parser import build_parser
from detkd.errors import ConfigError, DataError

if TYPE_CHECKING:
    from detkd.data.class_dataset import ClassDataset
    from detkd.data.labelled_images import LabelledSet
    from detkd.engine.class_parts import Sides
    from detkd.evaluation.class_judge import ClassPredictions
    from detkd.evaluation.decisions import Decisions
    from detkd.models.classifier import Classifier

EXAMPLES = """examples:
  detkd eval-cls --checkpoint runs/marine-distill/best.pt --side test --out judged
  detkd eval-cls --checkpoint runs/marine-distill/best.pt --data others --unknown debris bubble
  detkd eval-cls --checkpoint runs/marine-distill/best.pt --against runs/marine-student
  detkd eval-cls --checkpoint runs/self-resnet18-distill/best.pt --cut c3 --cut-out resnet18-c3.pt
"""


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from detkd.cli.class_judgement import show_classes
    from detkd.engine.class_judging import judge_folds, write_class_judgement
    from detkd.evaluation.class_intervals import compare_paired
    from detkd.evaluation.class_judge import aligned, read_predictions

    if options.folds:
        said, metrics, root = judge_folds(options.folds, options.bootstrap)
    else:
        said, metrics, root = _judge(options)
    if options.against:
        path = options.against
        path = path / "predictions.json" if path.is_dir() else path
        other = aligned(
            said, read_predictions(path), (str(options.checkpoint or "the folds"), str(path))
        )
        metrics["against"] = compare_paired(
            said.probabilities, other, said.labels, said.groups, draws=options.bootstrap
        )
    show_classes(metrics)
    if options.out:
        write_class_judgement(options.out, said, metrics, root)
        print(f"written: {options.out}/metrics.json, predictions.json, plots/")
    return 0


def _judge(options: argparse.Namespace) -> tuple[ClassPredictions, dict[str, Any], Path | None]:
    """What the checkpoint's network says, all that is known about it, and where the images lie."""
    from detkd.engine.class_judging import judge_said
    from detkd.engine.class_parts import predict_classes
    from detkd.engine.devices import choose_device

    network, checkpoint = _network(options)
    network.to(choose_device(options.device))
    decisions = _decisions(options, network, checkpoint)
    if options.cut_out:
        _write_cut(options, network, checkpoint, decisions)
    judged, foreign = _images(options, network, checkpoint)
    said = predict_classes(network, judged)
    metrics = judge_said(
        network,
        said,
        decisions,
        side=None if options.data else options.side,
        source=judged.data.source,
        foreign=predict_classes(network, foreign) if foreign else None,
        bootstrap=options.bootstrap,
    )
    return said, metrics, judged.data.root


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("eval-cls", __doc__, EXAMPLES)
    judged = parser.add_mutually_exclusive_group(required=True)
    judged.add_argument("--checkpoint", type=Path, help="a best.pt of train-cls")
    judged.add_argument(
        "--folds",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run folders of all folds (data.folds): what each said of its own, judged as one",
    )
    parser.add_argument("--side", choices=["val", "test"], default="val", help="(val)")
    parser.add_argument("--data", type=Path, help="other images: class folders or a CSV")
    parser.add_argument(
        "--unknown",
        nargs="+",
        default=[],
        metavar="CLASS",
        help="classes of --data that it does not know: are their images told as 'unknown'?",
    )
    parser.add_argument("--train-data", type=Path, help="where the config's images lie now")
    parser.add_argument("--val-data", type=Path, help="the same of its data.val, where it has one")
    parser.add_argument("--out", type=Path, help="for metrics.json, predictions.json, plots/")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="RUN",
        help="run folder or predictions.json of another run on the same images: paired test",
    )
    parser.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="draws for intervals over samples (1000; 0 for none)",
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument(
        "--cut", metavar="STAGE", help="judge the network cut at this exit; last: its head alone"
    )
    parser.add_argument("--cut-out", type=Path, metavar="FILE", help="write it as a checkpoint")
    options = parser.parse_args(argv)

    from detkd.engine.run import RunFolder

    if options.bootstrap < 0:
        raise DataError(f"--bootstrap: {options.bootstrap} is negative; give 0 or more.")
    if options.folds and options.side == "test":
        raise ConfigError("--side: folds are judged by what each said of its validation images.")
    of_checkpoint = ("data", "train_data", "val_data", "cut", "cut_out")
    if options.folds and (given := [name for name in of_checkpoint if getattr(options, name)]):
        flag = given[0].replace("_", "-")
        raise ConfigError(f"--{flag}: is for a checkpoint; folds are judged by their predictions.")
    if options.against and not options.bootstrap:
        raise DataError("--against: is tested by drawing samples; give --bootstrap a number.")
    if options.out and RunFolder(options.out).config.is_file():
        raise ConfigError(
            f"--out: {options.out} is a run folder, whose predictions.json is what it said of its "
            "validation images; name another folder."
        )
    if options.cut_out and RunFolder(options.cut_out.parent).config.is_file():
        raise ConfigError(
            f"--cut-out: {options.cut_out.parent} is a run folder, whose checkpoints are those of "
            "whole networks; name a file elsewhere."
        )
    if options.unknown and not options.data:
        raise DataError("--unknown: is of the classes of --data; name such images.")
    if options.cut_out and not options.cut:
        raise ConfigError("--cut-out: names a file, and --cut names no stage to cut at.")
    return options


def _network(options: argparse.Namespace) -> tuple[Classifier, dict[str, Any]]:
    """The classifier, or what is left of it when it is cut, and its checkpoint."""
    from detkd.models.classifier import classifier_from, cut_at, without_exits
    from detkd.models.early_exit import LAST
    from detkd.models.weights import read_checkpoint

    checkpoint = read_checkpoint(options.checkpoint)
    network = classifier_from(checkpoint, options.checkpoint)
    if options.cut:
        head = network.exits and options.cut in (LAST, network.deepest)
        network = without_exits(network) if head else cut_at(network, options.cut)
    return network, checkpoint


def _decisions(
    options: argparse.Namespace, network: Classifier, checkpoint: dict[str, Any]
) -> Decisions:
    """Those of the checkpoint; chosen on its validation images if it has none, or is cut."""
    from detkd.engine.class_judging import decide
    from detkd.engine.class_parts import predict_classes
    from detkd.evaluation.decisions import decisions_in

    kept = decisions_in(checkpoint, options.checkpoint)
    if kept and not options.cut:
        return kept
    validation = _sides(options, checkpoint).val
    said = predict_classes(network, _dataset(validation, network))
    return decide(network, said, validation.source)


def _write_cut(
    options: argparse.Namespace,
    network: Classifier,
    checkpoint: dict[str, Any],
    decisions: Decisions,
) -> None:
    from detkd.engine.class_judging import write_checkpoint

    model = {**checkpoint["config"]["model"], "cut": network.config.cut}
    config = {**checkpoint["config"], "model": {**model, "exits": network.config.exits}}
    cut = {
        **{key: value for key, value in checkpoint.items() if key != "training"},
        "config": config,
        "weights": network.state_dict(),
        "score": None,
        "decisions": vars(decisions),
    }
    write_checkpoint(options.cut_out, cut)
    print(f"written: {options.cut_out}")


def _sides(options: argparse.Namespace, checkpoint: dict[str, Any]) -> Sides:
    """The images that it was trained and is judged on."""
    from detkd.engine.class_parts import data_of, sides_as_trained

    config = data_of(checkpoint, options.checkpoint)
    if options.val_data and not config.val:
        raise ConfigError(
            "--val-data: its validation images are a side of data.train; leave it out."
        )
    for name in ("train", "val"):
        if moved := getattr(options, f"{name}_data"):
            setattr(config, name, str(moved))
        elif (source := getattr(config, name)) and not Path(source).exists():
            raise DataError(
                f"{source}: is gone, and {options.checkpoint} is to be judged, or its thresholds "
                f"chosen, on its images; --{name}-data names where they lie now."
            )
    return sides_as_trained(config, checkpoint, options.checkpoint)


def _tell_learned(
    options: argparse.Namespace, checkpoint: dict[str, Any], judged: LabelledSet
) -> None:
    """Say how many of the images the network has learned from, as far as these are there."""
    from detkd.data.labelled_images import in_both
    from detkd.engine.class_parts import data_of

    try:
        learned = _sides(options, checkpoint).train
    except DataError:
        if Path(options.train_data or data_of(checkpoint, options.checkpoint).train).exists():
            print("which of these it has learned from is not known: those of its training changed.")
        return
    if shared := in_both(learned, judged):
        print(
            f"{len(shared)} of the {len(judged.images)} images are among those that it has learned "
            f"from, and flatter; the first is {shared[0].file}."
        )


def _dataset(data: LabelledSet, network: Classifier) -> ClassDataset:
    from detkd.data.class_dataset import ClassDataset

    size, levels = network.image_size, network.levels
    return ClassDataset(data, image_size=size, cache="none", levels=levels)


def _images(
    options: argparse.Namespace, network: Classifier, checkpoint: dict[str, Any]
) -> tuple[ClassDataset, ClassDataset | None]:
    """The images that are judged, and those of --data whose classes it does not know."""
    from detkd.data.labelled_images import read_labelled
    from detkd.engine.class_parts import data_of

    if not options.data:
        return _dataset(_sides(options, checkpoint).of(options.side), network), None
    config = data_of(checkpoint, options.checkpoint)
    other = read_labelled(options.data)
    try:
        other = other.grouped(config.group_pattern, config.group_gap)
    except DataError as error:
        print(f"{error} So each image of {options.data} without a group stands alone.")
    known, foreign = other.known_to(network.classes, options.unknown, options.checkpoint)
    _tell_learned(options, checkpoint, known)
    return _dataset(known, network), _dataset(foreign, network) if foreign.images else None
