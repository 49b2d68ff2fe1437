"""What a classifier calls the images of a folder, or the boxes that a detector has found.

    detkd classify crops/ --checkpoint runs/marine-distill/best.pt --out classes.csv
    detkd classify frames/ --boxes found/results.csv --model exported --out second.csv
    detkd classify frames/ --boxes predictions.json --gt test.json --checkpoint best.pt --out x.csv

writes a row an image or box: the other columns of the boxes' table, then label ('unknown' below the
threshold), probability, most_likely and, of what could not be looked at, why (note). Temperature
and threshold are those that were chosen on validation images. With --early each image stops at the
first exit that is sure of it, and the column `exit` says where. Ends 1 if anything was passed over.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from detkd.cli.class_judgement import no_threshold
from detkd.cli.parser import build_parser
from detkd.errors import DataError

if TYPE_CHECKING:
    from detkd.data.class_inputs import Inputs
    from detkd.engine.classify import Answer, Answering

SHOWN = 3
ADDED = ("label", "probability", "most_likely", "note")


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from detkd.cli.check_dataset import plain
    from detkd.engine.classify import classify

    inputs = _inputs(options)
    asked = inputs.asked
    model = _with_levels(_model(options), options.gt)
    temperature, threshold = _chosen(options, model)
    answers = list(
        classify(
            model,
            asked,
            options.source,
            temperature=temperature,
            threshold=threshold,
            margin=options.margin,
        )
    )
    _write(options.out, inputs, answers, (*ADDED, *(["exit"] if options.early else [])))
    for label, count in sorted(Counter(each.label for each in answers if each.label).items()):
        print(f"{plain(label)}: {count}")
    if stopped := Counter(each.exit for each in answers if each.exit):
        print(f"stopped at {', '.join(f'{name}: {n}' for name, n in sorted(stopped.items()))}")
    passed = [
        f"{each.file or next(iter(each.row.values()), '')} {answer.problem}"
        for each, answer in zip(asked, answers, strict=True)
        if answer.problem
    ]
    if passed:
        print(f"{len(passed)} were passed over: {plain('; '.join(passed[:SHOWN]))}")
    print(f"written: {options.out}, {len(asked)} rows")
    return 1 if passed else 0


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("classify", __doc__)
    parser.add_argument("source", type=Path, metavar="SRC", help="folder of images or of frames")
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--checkpoint", type=Path, help="a classifier's best.pt")
    model.add_argument("--model", type=Path, help="an exported folder")
    parser.add_argument("--out", required=True, type=Path, metavar="CSV", help="the table to write")
    parser.add_argument(
        "--boxes", type=Path, help="boxes on the frames: results.csv, or COCO results with --gt"
    )
    parser.add_argument(
        "--gt",
        type=Path,
        help="COCO file that says the images of COCO results, and what 16-bit frames are shown as",
    )
    parser.add_argument(
        "--margin", type=float, default=0.1, help="added a side of a box, as for 'detkd crop' (0.1)"
    )
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="'unknown' below P, in place of the chosen one"
    )
    parser.add_argument(
        "--early", action="store_true", help="stop each image at the first exit that is sure of it"
    )
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    options = parser.parse_args(argv)
    if not 0 <= options.margin <= 4:
        raise DataError(f"--margin: {options.margin} is not from 0 to 4.")
    if options.out.is_dir():
        raise DataError(f"--out: {options.out} is a folder; name a file, such as classes.csv.")
    if options.threshold is not None and not 0 <= options.threshold <= 1:
        raise DataError(f"--threshold: {options.threshold} is no probability; give 0 to 1.")
    return options


def _inputs(options: argparse.Namespace) -> Inputs:
    from detkd.coco_json import read_json
    from detkd.data.class_inputs import boxes_of_coco, boxes_of_table, images_of
    from detkd.data.dataset import read_coco

    boxes = options.boxes
    if not boxes:
        return images_of(options.source)
    if not options.source.is_dir():
        raise DataError(f"{options.source}: no such folder; name the one of the frames.")
    if boxes.suffix.lower() != ".json":
        return boxes_of_table(boxes)
    if not options.gt:
        raise DataError(f"{boxes}: has images by number; --gt names the COCO file that knows them.")
    results = read_json(boxes, "name a detector's COCO results")
    return boxes_of_coco(results, read_coco(options.gt), boxes)


def _model(options: argparse.Namespace) -> Answering:
    from detkd.engine.classify import answering, answering_early
    from detkd.engine.devices import choose_device
    from detkd.evaluation.decisions import decisions_in
    from detkd.models.classifier import classifier_from
    from detkd.models.weights import read_checkpoint

    if options.model:
        return _exported(options.model, early=options.early)
    checkpoint = read_checkpoint(options.checkpoint)
    network = classifier_from(checkpoint, options.checkpoint)
    decisions = decisions_in(checkpoint, options.checkpoint)
    at_work = answering_early if options.early else answering
    return at_work(network, decisions, choose_device(options.device))


def _exported(folder: Path, *, early: bool) -> Answering:
    import torch

    from detkd.deploy.class_export import read_exported
    from detkd.engine.classify import Answering, stopping

    kept = read_exported(folder, exits=early)
    whole = Answering(kept.network, kept.classes, kept.image_size, kept.levels, kept.decisions)
    if not early:
        return whole
    exits = kept.exits
    if exits is None:
        raise DataError(
            f"{folder}: the export has no exits, for its network has none at which it can stop, or "
            "it is of an older detkd; export it again, or leave --early out."
        )
    return stopping(whole, lambda images: ((n, torch.from_numpy(z)) for n, z in exits(images)))


def _with_levels(model: Answering, gt: Path | None) -> Answering:
    """The model; if it was trained on images of 8 bits, with the levels that `gt` knows.

    `detkd crop` makes crops of 8 bits by these, so that frames of 16 have to go the same way.
    """
    from detkd.data.dataset import read_coco
    from detkd.pixels import levels_of

    if model.levels or not gt:
        return model
    return replace(model, levels=levels_of(read_coco(gt).get("info")))


def _chosen(options: argparse.Namespace, model: Answering) -> tuple[float, float]:
    """The temperature, and the threshold of 'unknown'."""
    decisions = model.decisions
    temperature = decisions.temperature if decisions else 1.0
    if options.threshold is not None:
        return temperature, options.threshold
    if decisions is None:
        raise DataError(
            f"{options.checkpoint or options.model}: holds no threshold, for its training has "
            "not ended (--resume goes on with it), or it is of an older detkd; name one with "
            "--threshold, or 0 to have a class for everything."
        )
    if decisions.unknown is None:
        print(f"{no_threshold(decisions.accuracy)}; --threshold names another")
        return temperature, float("inf")
    return temperature, decisions.unknown


def _write(path: Path, inputs: Inputs, answers: list[Answer], added: Sequence[str]) -> None:
    """The table: all columns that were there, and those that are `added`, divided as they were.

    One that has the name of an added one is called `NAME_before`.
    """
    from detkd.files import write_atomic

    columns, called = inputs.columns, list[str]()
    for name in columns:
        as_before = f"{name}_before" if name in added else name
        while as_before != name and as_before in columns:
            as_before += "_"
        called.append(as_before)
    table = io.StringIO()
    writer = csv.writer(table, delimiter=inputs.delimiter)
    writer.writerow([*called, *added])
    for each, said in zip(inputs.asked, answers, strict=True):
        sure = "" if said.probability is None else f"{said.probability:.4f}"
        known = [each.row.get(name, "") for name in columns]
        new = {
            "label": said.label,
            "probability": sure,
            "most_likely": said.most_likely,
            "note": said.problem,
            "exit": said.exit,
        }
        writer.writerow([*known, *(new[name] for name in added)])
    write_atomic(path, table.getvalue().encode("utf-8", "surrogateescape"))
