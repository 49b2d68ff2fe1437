"""Accuracy against time of a study's detectors, exported, and of any others beside them.

detkd bench pareto configs/microalgae/pareto.yaml --out pareto.json
detkd bench pareto configs/microalgae/pareto.yaml --other yolo11n yolo11n.onnx yolo11n-test.json

mAP is what the study has found (mean and spread over seeds), time what the exported graphs take in
this run, all of them in turn on the same frames. --other adds a detector of another kind by its
ONNX file and its detections on the study's test images, in any form that `detkd eval` reads.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detkd.cli.parser import build_parser
from detkd.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from detkd.deploy.pareto import Session
    from detkd.engine.study import Study
    from detkd.models.detector import Detector


def main(argv: list[str]) -> int:
    options = _parse(argv)

    from rich.progress import Progress

    from detkd.deploy.onnx_model import needed
    from detkd.deploy.pareto import Foreign, Point, exported, pareto_table, plot_pareto, take_times
    from detkd.engine.study import read_study
    from detkd.engine.study_results import Results
    from detkd.files import write_atomic, write_json
    from detkd.markdown import markdown_table

    needed()
    study = read_study(options.study)
    if study.command != "train":
        raise ConfigError(f"{study.path}: studies classifiers; this is about detectors.")
    scores, key = _scores(study, Results(study).rows)
    metric = f"{key.removesuffix('_map')} mAP"
    # What others gave us is looked at first: it is what may be wrong.
    others = {name: (Path(model), Path(said)) for name, model, said in options.other}
    theirs = [Foreign(model, options.threads) for model, _ in others.values()]
    found = {name: [_judged(said, study, key)] for name, (_, said) in others.items()}
    detectors, frames = _detectors(study, list(scores), options)
    points = []
    with Progress(transient=True) as bar, tempfile.TemporaryDirectory(prefix="detkd-") as folder:
        task = bar.add_task("", total=None)
        sessions: list[Session] = []
        for at, (name, detector) in enumerate(detectors.items()):
            bar.update(task, description=f"writing the graph of {name}")
            sessions.append(exported(detector, Path(folder) / f"{at}.onnx", options.threads))
        sessions += theirs
        frames += [[other.fitted(frame) for frame in frames[0]] for other in theirs]
        ms = take_times(
            sessions, frames, options.repeat, lambda said: bar.update(task, description=said)
        )
    for (name, detector), each in zip(detectors.items(), ms, strict=False):
        weights = sum(parameter.numel() for parameter in detector.parameters())
        points.append(Point(name, scores[name], each, weights))
    for name, each in zip(others, ms[len(detectors) :], strict=True):
        points.append(Point(name, found[name], each, ours=False))
    table = pareto_table(points, metric)
    threads = f"{options.threads} {'thread' if options.threads == 1 else 'threads'}"
    said = (
        f"ONNX Runtime {metadata.version('onnxruntime')}, {threads}, {options.repeat} rounds that "
        "take turns, mean of the fastest quarter."
    )
    text = markdown_table(table)
    print(f"{text}\n{said}")
    if options.out:
        rows = [{**asdict(point), "score": point.score} for point in points]
        document = {"metric": key, "measured": said, "points": rows}
        write_json(options.out, document)
        write_atomic(options.out.with_suffix(".md"), f"{text}\n{said}\n")
        plot_pareto(points, metric, options.out.with_suffix(".png"))
        print(f"written: {options.out}, and .md and .png beside it")
    return 0


def _scores(study: Study, rows: dict[str, dict[str, Any]]) -> tuple[dict[str, list[float]], str]:
    """The mAP of each row that has been run, by seed, and the key that it has in the results.

    That of the test images where every row has it, of the validation images otherwise: mAP of
    different images is not comparable.
    """
    rows = {name: row for name, row in rows.items() if name in study.rows and row["seeds"]}
    if not rows:
        raise ConfigError(
            f"{study.results}: has no figures of {study.path} yet; run detkd study {study.path}."
        )
    tested = all(None not in row["test_map"] for row in rows.values())
    key = "test_map" if tested else "val_map"
    return {name: [float(score) for score in row[key]] for name, row in rows.items()}, key


def _detectors(
    study: Study, names: list[str], options: argparse.Namespace
) -> tuple[dict[str, Detector], list[list[Any]]]:
    """The detectors of these rows, trained where their run is there, and the frames of each."""
    from detkd.cli.bench_cost import class_count, experiment_of
    from detkd.deploy.cost_subjects import noise_frame, real_frames, untrained_detector
    from detkd.engine.study import plan
    from detkd.models.detector import Detector

    of_size: dict[int, list[Tensor]] = {}
    detectors, frames = {}, []
    for task in plan(study, [0], experiment_of, names):
        if task.row not in names:  # a teacher that has not been run
            continue
        experiment = experiment_of(task.arguments)
        size = experiment.data.image_size
        if size not in of_size:
            gt = options.gt
            of_size[size] = real_frames(gt, None, size, 8) if gt else [noise_frame(size)]
        if (checkpoint := task.run / "best.pt").is_file():
            detector = Detector.load(checkpoint)
        else:
            classes = options.classes or class_count(experiment)
            detector = untrained_detector(experiment.model, classes, size, of_size[size])
        detectors[task.row] = detector.cpu().eval()
        frames.append([frame.numpy() for frame in of_size[size]])
    return detectors, frames


def _judged(path: Path, study: Study, key: str) -> float:
    """mAP of a file of detections on the images that the study's own mAP is of."""
    from detkd.data.dataset import read_coco
    from detkd.evaluation.coco_map import coco_map
    from detkd.evaluation.predictions import read_results

    truth = study.test
    if key != "test_map" or truth is None:
        raise ConfigError(
            f"{study.path}: its rows have no mAP of test images, by which {path} could be judged."
        )
    content = read_coco(truth)
    return float(coco_map(content, read_results(path, content))["coco"]["AP"] or 0.0)


def _parse(argv: list[str]) -> argparse.Namespace:
    parser = build_parser("bench pareto", __doc__)
    add = parser.add_argument
    add("study", type=Path, help="a study file, or a folder with study.yaml")
    add(
        "--other",
        nargs=3,
        action="append",
        default=[],
        metavar=("NAME", "MODEL.onnx", "DETECTIONS"),
        help="a detector of another kind; again for one more",
    )
    add("--gt", type=Path, metavar="FILE", help="COCO file of real frames (else one of noise)")
    add("--classes", type=int, metavar="N", help="of untrained ones (else their data say)")
    add("--threads", type=int, default=1, metavar="N", help="CPU threads (1)")
    add("--repeat", type=int, default=60, metavar="N", help="timed rounds (60)")
    add("--out", type=Path, metavar="FILE", help="write FILE (JSON), and a .md and .png beside it")
    options = parser.parse_args(argv)
    for name, least in {"classes": 1, "threads": 1, "repeat": 4}.items():
        if (value := getattr(options, name)) is not None and value < least:
            parser.error(f"--{name}: {value} is less than {least}")
    names = [name for name, _, _ in options.other]
    if len(set(names)) < len(names):
        parser.error("--other: a name is there twice")
    if options.out and options.out.suffix != ".json":
        parser.error(f"--out: {options.out} does not end in .json")
    return options
