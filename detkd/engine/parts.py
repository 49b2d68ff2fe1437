"""The parts of a training, built from its config: data, loader, networks and judge."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import nn
from torch.utils.data import DataLoader

from detkd.config import AnyExperiment, DataConfig, DistillConfig, Experiment, ModelConfig
from detkd.data.anchors import fit_anchors
from detkd.data.augment import VIEWS
from detkd.data.dataset import CocoDataset, collate
from detkd.data.frames import WithFrames, frames_of
from detkd.data.sampler import EpochBatches
from detkd.distill.cache import MapCache, maps_needed
from detkd.distill.detector_exits import DetectorSelfDistiller
from detkd.distill.distiller import Distiller, build_distiller
from detkd.engine.curves import plot_curves
from detkd.engine.fit import Judge, all_steps
from detkd.engine.predict import predict
from detkd.engine.run import RunFolder
from detkd.errors import ConfigError, DataError
from detkd.evaluation.case import build_case
from detkd.evaluation.coco_map import coco_map
from detkd.evaluation.judge import judge_case
from detkd.evaluation.plots import plot_all
from detkd.evaluation.results import check_truth
from detkd.files import write_json
from detkd.models.detector import Detector, build_detector, padded
from detkd.models.weights import levels_in, read_checkpoint


def open_data(experiment: Experiment) -> tuple[CocoDataset, CocoDataset]:
    """Training and validation data; where anchors are to be fitted, the config gets their sizes.

    A student takes the teacher's anchors, so that it can share its heads, and sees what the teacher
    saw of 16-bit images.

    Raises:
        DataError: files that cannot be used, or classes that differ between the two.
        ConfigError: frames without annotations, and no teacher to speak on them; or none, and its
            boxes are to be labels there.
        CheckpointError: a teacher that cannot be read.
    """
    data, model, distill = experiment.data, experiment.model, experiment.distill
    speaks = distill and (distill.losses or distill.pseudo is not None)
    if data.unlabelled and not speaks:
        raise ConfigError(
            "data.unlabelled: frames without annotations teach only through a teacher; name one "
            "in distill.teacher, with terms in distill.losses, or a score in distill.pseudo from "
            "which its boxes are labels."
        )
    if distill and distill.pseudo is not None and not data.unlabelled:
        raise ConfigError(
            "distill.pseudo: the teacher's boxes are labels of frames without annotations, and "
            "data.unlabelled names none; name some, or leave distill.pseudo out."
        )
    if data.unlabelled and not data.unlabelled_share:
        raise ConfigError(
            "data.unlabelled_share: 0 shows none of the frames of data.unlabelled; give it a "
            "share, or leave the frames out."
        )
    train_set = _dataset(data, data.train, data.augment, mark_views=keeps_views(experiment))
    val_set = _dataset(data, data.val, "none")
    if train_set.classes != val_set.classes:
        differing = sorted(set(train_set.classes) ^ set(val_set.classes))
        what = f"'{differing[0]}' is in one of them only" if differing else "their order differs"
        raise DataError(
            f"{data.val}: its classes are not those of {data.train} ({what}); "
            "convert both with the same --classes."
        )
    # 16 bits are mapped alike on every side, and as the teacher saw them.
    if distill:
        teacher = read_checkpoint(distill.teacher)
        train_set.levels = levels_in(teacher) or train_set.levels
    val_set.levels = train_set.levels or val_set.levels
    boxes = train_set.box_sizes()
    # Features alone can be learned from images without any box.
    alone = bool(distill and distill.task_from >= 1)
    if not len(boxes) and not alone:
        raise DataError(f"{train_set.path}: holds no box to be learned from; name another file.")
    if not len(val_set.box_sizes()):
        raise DataError(f"{val_set.path}: holds no box to be judged on; name another file.")
    if model.anchor_sizes == "fit" and distill:
        model.anchor_sizes = _anchors_of_teacher(distill.teacher, model)
    if model.anchor_sizes == "fit":
        if not len(boxes):
            raise ConfigError(
                f"model.anchor_sizes: {train_set.path} has no boxes that they could fit; name "
                "them, or give the student the levels of its teacher."
            )
        model.anchor_sizes, _ = fit_anchors(boxes, len(model.levels), model.anchor_ratios)
    return train_set, val_set


def _anchors_of_teacher(path: str, model: ModelConfig) -> Literal["fit"] | list[list[float]]:
    """The teacher's anchors, with which its heads can be shared; 'fit' if it has other levels."""
    teacher = Detector.load(path).config
    same = teacher.levels == model.levels and teacher.anchor_ratios == model.anchor_ratios
    return teacher.anchor_sizes if same else "fit"


def keeps_views(experiment: AnyExperiment) -> bool:
    """Whether what a teacher says of each view is kept."""
    return bool(experiment.distill and experiment.distill.cache)


def _dataset(
    data: DataConfig, annotations: str, augment: str, *, mark_views: bool = False
) -> CocoDataset:
    return CocoDataset(
        annotations,
        images=data.images,
        image_size=data.image_size,
        augment=augment,
        cache=data.cache,
        skip_missing=data.skip_missing,
        copy_paste=data.copy_paste,
        overlay=data.overlay,
        mark_views=mark_views,
    )


def build_loader(dataset: CocoDataset, experiment: Experiment, fabric: Fabric) -> DataLoader:
    """Training batches whose order and augmentation depend on seed and epoch alone.

    Raises:
        DataError: frames without annotations that cannot be used.
    """
    data, train, workers = experiment.data, experiment.train, experiment.data.workers
    images: CocoDataset | WithFrames = dataset
    frames = 0
    if data.unlabelled:
        images = _with_frames(dataset, experiment)
        frames = len(images.frames)
    batches = EpochBatches(
        len(dataset),
        train.batch_size,
        seed=train.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        frames=frames,
        frames_a_batch=max(1, round(data.unlabelled_share * train.batch_size)),
        views=data.views,
    )
    return DataLoader(
        images,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=leave_interrupts if workers else None,
        persistent_workers=workers > 0,
        pin_memory=fabric.device.type == "cuda",
        # Its own generator: the loader must not draw from the one that samples proposals.
        generator=torch.Generator().manual_seed(train.seed),
    )


def _with_frames(dataset: CocoDataset, experiment: Experiment) -> WithFrames:
    data = experiment.data
    source = Path(str(data.unlabelled))
    document, root, unread = frames_of(source, [dataset, _dataset(data, data.val, "none")])
    frames = CocoDataset(
        source,
        images=root,
        image_size=data.image_size,
        augment=data.augment,
        cache=data.cache,
        document=document,
        mark_views=keeps_views(experiment),
    )
    left_out = f"; {len(unread)} cannot be read, the first is {unread[0]}" if unread else ""
    print(f"{len(frames)} frames without annotations of {source}{left_out}")
    return WithFrames(dataset, frames)


def build_trainable(
    experiment: Experiment, classes: Sequence[str], loader: DataLoader
) -> Detector | Distiller | DetectorSelfDistiller:
    """The network of the config; with its teacher, or as its own, where it is to be distilled.

    Raises:
        ConfigError: parts that do not fit, of the network or of teacher and student.
        CheckpointError: weights or a teacher that cannot be used.
    """
    check_one_teacher(experiment)
    torch.manual_seed(experiment.train.seed)
    student = build_detector(experiment.model, classes, experiment.data.image_size)
    student.levels = loader.dataset.levels  # type: ignore[attr-defined]
    if experiment.self_distill:
        return DetectorSelfDistiller(student, experiment.self_distill)
    if not experiment.distill:
        return student
    teacher = Detector.load(experiment.distill.teacher)
    cache = _build_cache(experiment, experiment.distill, teacher, loader)
    steps = all_steps(experiment.train, len(loader))
    return build_distiller(student, teacher, experiment.distill, steps=steps, cache=cache)


def check_one_teacher(experiment: AnyExperiment) -> None:
    """Refuse a network that has a teacher and is its own.

    Raises:
        ConfigError: both are asked for.
    """
    if experiment.distill and experiment.self_distill:
        raise ConfigError(
            "distill, self_distill: a network has a teacher or is its own; leave one out."
        )


def _build_cache(
    experiment: Experiment, distill: DistillConfig, teacher: Detector, loader: DataLoader
) -> MapCache | None:
    """Where the teacher's features are kept, after a look at the room that they need."""
    if not distill.cache:
        return None
    data = experiment.data
    names = maps_needed(distill.losses, teacher, frames=data.unlabelled is not None)
    cache = MapCache(distill.cache, teacher, names)
    side = padded(data.image_size)
    views = data.views or _views(data)
    size = cache.plan(len(loader.dataset), views, (side, side))  # type: ignore[arg-type]
    print(
        f"the teacher's features of all views take about {size / 2**30:.2f} GiB in {cache.folder}"
    )
    return cache


def _views(data: DataConfig) -> int | None:
    """How many views of an image its augmentation can make at all; None for ever new ones."""
    return None if data.copy_paste or data.overlay else VIEWS.get(data.augment)


def leave_interrupts(worker: int) -> None:
    """Ctrl-C goes to every process of the group; the main one decides what to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def build_judge(dataset: CocoDataset, experiment: Experiment) -> Judge:
    """A function that gives a network's COCO metrics on `dataset`."""
    truth = check_truth(dataset.truth, dataset.path)

    def judge(network: nn.Module) -> dict[str, Any]:
        assert isinstance(network, Detector)
        results = predict(network, dataset, batch_size=experiment.train.batch_size)
        return coco_map(truth, results)["coco"]

    return judge


def final_judgement(
    run: RunFolder, dataset: CocoDataset, experiment: Experiment, device: torch.device
) -> dict[str, Any]:
    """Judge the best checkpoint whole: metrics.json, predictions.json and plots/."""
    detector = Detector.load(run.best)
    results = predict(detector, dataset, batch_size=experiment.train.batch_size, device=device)
    case = build_case(check_truth(dataset.truth, dataset.path), results)
    metrics = judge_case(case)
    write_json(run.predictions, results)
    plot_all(case, metrics, run.plots, images=dataset.image_root)
    plot_curves(run)
    write_json(run.metrics, metrics)  # last: where it is, all is there
    return metrics
