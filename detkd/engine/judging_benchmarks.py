"""What judging costs, as ratios measured side by side, and whether its intervals are right."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from detkd.evaluation.bootstrap import (
    bootstrap_numbers,
    draw_weights,
    drawn_precisions,
    groups_of,
    interval,
    over_classes,
)
from detkd.evaluation.case import Case, Detections, Truths, as_results, build_case
from detkd.evaluation.coco_map import OVERLAPS, accumulate, coco_map
from detkd.evaluation.matching import ClassMatches, match
from detkd.files import write_json

ROUNDS = 5
MANY = 20000  # samples that stand for all there could be


def bench_eval() -> dict[str, Any]:
    """mAP at the size of COCO's val2017: to hotcoco's own time, and the command to `json.load`.

    5,000 images, 36,781 truths, 80 classes and 100 detections an image.
    """
    truth, results = random_results(5000, 36781, 80, 100)
    ours, theirs = _take_turns(
        [lambda: coco_map(truth, results), lambda: _hotcoco_alone(truth, results)], ROUNDS
    )
    with tempfile.TemporaryDirectory() as folder:
        gt, dt = Path(folder, "gt.json"), Path(folder, "dt.json")
        write_json(gt, truth)
        dt.write_text(json.dumps(results))
        command, load = _take_turns(
            [lambda: _run_eval(gt, dt), lambda: json.loads(dt.read_text())], ROUNDS
        )
    return {
        "map_s": ours,
        "hotcoco_s": theirs,
        "map_to_hotcoco": ours / theirs,
        "command_s": command,
        "json_load_s": load,
        "command_to_json_load": command / load,
    }


def bench_bootstrap(simulated: int = 1000, compared: int = 20) -> dict[str, Any]:
    """1,000 draws at PMID2019's size, 20 of them judged anew by pycocotools, and the coverage.

    2,164 images, 24 classes, two truths and 100 detections an image.
    """
    case = build_case(*random_results(2164, 4328, 24, 100))
    began = time.perf_counter()
    bootstrap_numbers(case, draws=1000)
    seconds = time.perf_counter() - began
    weights = draw_weights(groups_of(case), compared, 0)
    found = over_classes(drawn_precisions(match(case, OVERLAPS), weights)["AP"])
    off = [
        abs(float(ap) - _anew(resampled(case, times)))
        for ap, times in zip(found, weights, strict=True)
    ]
    return {
        "seconds_of_1000_draws": seconds,
        "draws_judged_anew": compared,
        "greatest_difference": max(off),
        **coverage(simulated),
    }


def coverage(simulated: int, *, samples: int = 60, draws: int = 400) -> dict[str, Any]:
    """How often the nominal 95 % interval holds the AP of the population the samples are from.

    Samples differ in how easy they are, so that images of one sample resemble each other. The same
    with images drawn instead of samples shows what ignoring that does.
    """
    random = np.random.default_rng(0)
    population, _ = random_matches(random, MANY)
    whole = _means(population)
    inside = {(unit, name): 0 for unit in ("samples", "images") for name in whole}
    for seed in range(simulated):
        matches, groups = random_matches(random, samples)
        for unit, of in (("samples", groups), ("images", np.arange(len(groups)))):
            found = drawn_precisions(matches, draw_weights(of, draws, seed))
            for name, value in whole.items():
                low, high = interval(over_classes(found[name]), 0.95, int(of.max()) + 1) or (1, 0)
                inside[unit, name] += low <= value <= high
    return {
        "data_sets": simulated,
        "samples": samples,
        "coverage_drawing_samples": {n: inside["samples", n] / simulated for n in whole},
        "coverage_drawing_images": {n: inside["images", n] / simulated for n in whole},
    }


def random_results(
    images: int, truths: int, classes: int, most: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A truth and results: of each object up to three detections, the rest anywhere."""
    random = np.random.default_rng(0)
    image = random.integers(images, size=truths)
    category = random.integers(classes, size=truths)
    corner = random.uniform(0, 400, (truths, 2))
    box = np.concatenate([corner, random.lognormal(3.6, 0.8, (truths, 2)).clip(4, 240)], axis=1)
    near = np.repeat(np.arange(truths), 3)
    found = box[near] + random.normal(0, 4, (len(near), 4))
    found[:, 2:] = found[:, 2:].clip(1)
    mistaken = random.random(len(near)) < 0.2
    of = np.where(mistaken, random.integers(classes, size=len(near)), category[near])
    order = np.argsort(image[near], kind="stable")
    rank = np.arange(len(near)) - np.searchsorted(image[near][order], image[near][order])
    kept = order[rank < most]
    left = np.repeat(np.arange(images), most - np.bincount(image[near][kept], minlength=images))
    anywhere = np.concatenate(
        [random.uniform(0, 400, (len(left), 2)), random.uniform(5, 200, (len(left), 2))], axis=1
    )
    case = Case(
        [{"id": at + 1, "file_name": f"{at + 1:012}.jpg"} for at in range(images)],
        [{"id": at + 1, "name": f"c{at + 1}"} for at in range(classes)],
        Truths(image, category, box, box[:, 2] * box[:, 3], *np.zeros((2, truths), dtype=bool)),
        Detections(
            np.concatenate([image[near][kept], left]),
            np.concatenate([of[kept], random.integers(classes, size=len(left))]),
            np.concatenate([found[kept], anywhere]).round(3),
            np.concatenate([random.random(len(kept)), random.random(len(left)) ** 3]),
        ),
    )
    annotations = [
        {"id": at + 1, "image_id": i + 1, "category_id": c + 1, "bbox": b, "area": b[2] * b[3]}
        | {"iscrowd": 0}
        for at, (i, c, b) in enumerate(
            zip(image.tolist(), category.tolist(), box.tolist(), strict=True)
        )
    ]
    truth = {"images": case.images, "categories": case.categories, "annotations": annotations}
    return truth, as_results(case)


def random_matches(
    random: np.random.Generator, samples: int, *, images: int = 3, classes: int = 3
) -> tuple[list[ClassMatches], np.ndarray]:
    """Matches of a data set of `samples` groups of images, and the group of each image."""
    groups = np.repeat(np.arange(samples), images)
    ease = random.normal(0, 0.8, samples)
    return [_random_class(random, groups, ease, 0.8 - 0.4 * at) for at in range(classes)], groups


def _random_class(
    random: np.random.Generator, groups: np.ndarray, ease: np.ndarray, skill: float
) -> ClassMatches:
    """Easy objects are found, found well and scored high; false ones come where it is hard."""
    places = np.arange(len(groups))
    there = random.poisson(np.exp(random.normal(0.3, 0.5, len(ease)))[groups])
    image = np.repeat(places, there)
    clear = skill + ease[groups[image]] + random.normal(0, 1, len(image))
    image, clear = image[clear > 0], clear[clear > 0]
    overlap = 0.5 + 0.5 / (1 + np.exp(1 - clear))
    false = np.repeat(places, random.poisson(np.exp(-0.5 - 0.5 * ease)[groups]))
    logit = np.concatenate(
        [clear + random.normal(0, 0.7, len(clear)), random.normal(-0.8, 1, len(false))]
    )
    score = 1 / (1 + np.exp(-logit))
    hit = np.zeros((len(OVERLAPS), len(score)), dtype=bool)
    hit[:, : len(overlap)] = overlap >= OVERLAPS[:, None]
    image = np.concatenate([image, false])
    order = np.lexsort((image, -score))
    truth = np.where(hit[:, order], 0, -1)
    return ClassMatches(order, image[order], score[order], truth, np.zeros_like(hit), there)


def resampled(case: Case, times: np.ndarray) -> Case:
    """The case with each image there so many times, copies side by side."""
    first = np.concatenate([[0], np.cumsum(times)])[:-1]

    def rows(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        often = times[image]
        row = np.repeat(np.arange(len(image)), often)
        copy = np.arange(len(row)) - np.repeat(np.cumsum(often) - often, often)
        return row, first[image[row]] + copy

    columns = []
    for part in (case.truths, case.detections):
        row, image = rows(part.image)
        columns.append({**{k: v[row] for k, v in vars(part).items()}, "image": image})
    images = [{"id": at} for at in range(int(times.sum()))]
    return Case(images, case.categories, Truths(**columns[0]), Detections(**columns[1]))


def _anew(case: Case) -> float:
    precision = accumulate(case, engine="pycocotools").precision[:, :, :, 0, -1]
    return float(precision[precision > -1].mean())


def _means(matches: list[ClassMatches]) -> dict[str, float]:
    once = np.ones((1, len(matches[0].positives)), dtype=np.int32)
    return {k: float(over_classes(v)[0]) for k, v in drawn_precisions(matches, once).items()}


def _hotcoco_alone(truth: dict[str, Any], results: list[dict[str, Any]]) -> None:
    import hotcoco

    with contextlib.redirect_stdout(io.StringIO()):
        images = [{**image, "width": 640, "height": 480} for image in truth["images"]]
        coco = hotcoco.COCO({**truth, "images": images})
        evaluation = hotcoco.COCOeval(coco, coco.load_res(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summary_lines()


def _run_eval(gt: Path, dt: Path) -> None:
    command = [sys.executable, "-m", "detkd", "eval", "--gt", str(gt), "--dt", str(dt)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ.copy())


def _take_turns(steps: list[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each."""
    times: list[list[float]] = [[] for _ in steps]
    gc.collect()  # what was made before is nobody's cost
    for _ in range(rounds):
        for kept, step in zip(times, steps, strict=True):
            began = time.perf_counter()
            step()
            kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in times]
