"""What our loop and the distiller cost, as ratios measured side by side.

The two sides of a ratio take turns, step by step, so that a machine that slows down slows both;
the median of the steps is compared.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detkd.config import DataConfig, DistillConfig, Experiment, ModelConfig, TermConfig, TrainConfig
from detkd.data.anchors import fit_anchors
from detkd.data.dataset import CocoDataset, collate
from detkd.data.synthetic import write_scenes
from detkd.distill.cache import MapCache, maps_needed
from detkd.distill.distiller import build_distiller
from detkd.engine.devices import build_fabric, choose_device
from detkd.engine.fit import fit
from detkd.engine.optimiser import build_optimizer
from detkd.engine.parts import build_loader, open_data
from detkd.engine.run import RunFolder, read_log
from detkd.models.detector import Detector, build_detector

TEACHER, STUDENT = "mobilenet_v2", "shallow_x1"
Batch = tuple[list[Tensor], list[dict[str, Tensor]]]


def bench_train(steps: int, image_size: int, batch_size: int) -> dict[str, Any]:
    """Seconds a step of `fit` over those of a plain loop (same model, batch and optimiser)."""
    return {
        name: _ratio_to_plain(backbone, steps, image_size, batch_size)
        for name, backbone in (("teacher", TEACHER), ("student", STUDENT))
    }


def bench_distill(
    steps: int, image_size: int, batch_size: int, pair: tuple[Experiment, Experiment] | None = None
) -> dict[str, Any]:
    """A distilling step over (a plain student's step + the teacher's forward pass).

    The forward pass is measured twice: of the whole detector, as it predicts, and of its backbone
    and neck alone, the least that any distilling of features must run. A step whose features of
    the teacher are read from its cache is measured, too. With a `pair`, the experiments of a
    distilled student and of its teacher, those two with their terms, on rendered scenes.
    """
    with tempfile.TemporaryDirectory() as folder:
        if pair:
            image_size, batch_size = pair[0].data.image_size, pair[0].train.batch_size
        experiment = _experiment(Path(folder), STUDENT, image_size, batch_size)
        data, _ = open_data(experiment)
        student_model, teacher_model = (
            (_for_scenes(each.model, data) for each in pair)
            if pair
            else (replace(experiment.model, backbone=name) for name in (STUDENT, TEACHER))
        )

        def build(model: ModelConfig) -> Detector:
            return _built(model, experiment, data.classes)

        teacher, plain = build(teacher_model).eval(), build(student_model)
        usual = [
            TermConfig("kl", ["roi.logits"]),
            TermConfig("pkd", list(experiment.model.levels), 0.5),
        ]
        asked = pair[0].distill if pair else None
        distill = asked or DistillConfig("", "inherit", usual)
        kept = MapCache(Path(folder) / "features", teacher, maps_needed(distill.losses, teacher))
        distiller, cached = (
            build_distiller(build(student_model), deepcopy(teacher), distill, cache=cache)
            for cache in (None, kept)
        )
        for module in (plain, teacher, distiller, cached):
            module.to(memory_format=torch.channels_last)  # as in `fit`
        data.mark_views = True  # as where a cache is used
        batch = _to(_batch(data, batch_size), teacher)

        @torch.no_grad()
        def forward() -> None:
            teacher(batch[0])

        @torch.no_grad()
        def features() -> None:
            images, _ = teacher.transform(batch[0], None)
            teacher.levels_of(images)

        plain_s, distil_s, cached_s, forward_s, features_s = take_turns(
            [
                step_of(plain, experiment.train, batch),
                step_of(distiller, experiment.train, batch),
                step_of(cached, experiment.train, batch),
                forward,
                features,
            ],
            steps,
        )
    return {
        "plain_step_s": plain_s,
        "teacher_forward_s": forward_s,
        "teacher_features_s": features_s,
        "distilling_step_s": distil_s,
        "to_sum": distil_s / (plain_s + forward_s),
        "to_sum_of_features": distil_s / (plain_s + features_s),
        "to_plain": distil_s / plain_s,
        "cached_to_plain": cached_s / plain_s,
    }


def bench_loading(steps: int, image_size: int, batch_size: int) -> dict[str, Any]:
    """Share of an epoch that `fit` waits for its batches, from the second epoch on."""
    with tempfile.TemporaryDirectory() as folder:
        experiment = _experiment(Path(folder), STUDENT, image_size, batch_size)
        experiment.train.epochs = 3
        lines = _fit(experiment, Path(folder))
    waits = [line["data_wait"] for line in lines if line["kind"] == "val"]
    return {"data_wait": max(waits[1:]), "epochs": waits}


def _ratio_to_plain(backbone: str, steps: int, image_size: int, batch_size: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        experiment = _experiment(Path(folder), backbone, image_size, batch_size)
        data, _ = open_data(experiment)
        batch = _to(_batch(data, batch_size), _built(experiment.model, experiment, data.classes))
        fabric = build_fabric(experiment.train)
        plain = _built(experiment.model, experiment, data.classes)
        ours = _built(experiment.model, experiment, data.classes)
        ours.to(memory_format=torch.channels_last)
        optimizer = build_optimizer(ours, experiment.train)
        model, wrapped = fabric.setup(ours, optimizer)

        def step() -> None:
            losses = model(*batch)
            fabric.backward(sum(losses.values()))
            fabric.clip_gradients(model, wrapped, max_norm=10.0, error_if_nonfinite=False)
            wrapped.step()
            wrapped.zero_grad()

        plain_s, ours_s = take_turns([step_of(plain, experiment.train, batch), step], steps)
    return {"plain_s": plain_s, "ours_s": ours_s, "ratio": ours_s / plain_s}


def step_of(trainable: nn.Module, train: TrainConfig, batch: Batch) -> Callable[[], None]:
    """A step as the shortest loop has it."""
    trainable.train()
    optimizer = build_optimizer(trainable, train)

    def step() -> None:
        losses = trainable(*batch)
        total = sum(losses.values())
        optimizer.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(trainable.parameters(), 10.0)
        optimizer.step()

    return step


def take_turns(steps: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Median seconds of each, after two rounds to warm up."""
    times: list[list[float]] = [[] for _ in steps]
    for turn in range(rounds + 2):
        for kept, step in zip(times, steps, strict=True):
            torch.manual_seed(turn)
            began = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if turn >= 2:
                kept.append(time.perf_counter() - began)
    return [statistics.median(kept) for kept in times]


def _experiment(folder: Path, backbone: str, image_size: int, batch_size: int) -> Experiment:
    from detkd.data.check import examine
    from detkd.data.convert import write_dataset

    if not (folder / "scenes").exists():
        write_scenes(folder / "scenes", 4 * batch_size)
        write_dataset(examine(folder / "scenes"), folder / "all.json", "coco")
    file = str(folder / "all.json")
    return Experiment(
        DataConfig(file, file, image_size=image_size, augment="none"),
        ModelConfig(backbone=backbone),
        TrainConfig(batch_size=batch_size, ema=0.0),
    )


def _for_scenes(model: ModelConfig, data: CocoDataset) -> ModelConfig:
    """A model with random weights, and with anchors for the objects of the scenes."""
    sizes, _ = fit_anchors(data.box_sizes(), len(model.levels), model.anchor_ratios)
    return replace(model, weights=None, anchor_sizes=sizes)


def _built(model: ModelConfig, experiment: Experiment, classes: tuple[str, ...]) -> Detector:
    torch.manual_seed(0)
    return build_detector(model, classes, experiment.data.image_size).to(choose_device("auto"))


def _batch(data: Any, size: int) -> Batch:
    return collate([data[at, at] for at in range(size)])


def _to(batch: Batch, model: nn.Module) -> Batch:
    device = next(model.parameters()).device
    images, targets = batch
    return (
        [image.to(device) for image in images],
        [{key: value.to(device) for key, value in target.items()} for target in targets],
    )


def _fit(experiment: Experiment, folder: Path) -> list[dict[str, Any]]:
    fabric = build_fabric(experiment.train)
    data, _ = open_data(experiment)
    detector = build_detector(experiment.model, data.classes, experiment.data.image_size)
    run = RunFolder(folder / "run")
    run.open(experiment, resume=False)
    loader = build_loader(data, experiment, fabric)
    fit(detector, loader, lambda _: {"AP": 0.0, "AP50": 0.0}, experiment, run, fabric)
    return read_log(run)
