"""The parts of a classifier's training, built from its config: data, loader, networks and judge."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from detkd.config import ClassDataConfig, ClassifierExperiment
from detkd.data.augment import VIEWS
from detkd.data.class_dataset import ClassDataset, Mixing, class_weights, drawn_counts
from detkd.data.labelled_images import (
    LabelledSet,
    divide_labelled,
    fold_of,
    in_both,
    read_labelled,
)
from detkd.data.labelled_oddities import oddities, shares
from detkd.data.sampler import EpochBatches
from detkd.distill.classifier_distiller import ClassifierDistiller, build_classifier_distiller
from detkd.distill.self_distiller import SelfDistiller
from detkd.engine.fit import Judge, all_steps
from detkd.engine.parts import check_one_teacher, keeps_views, leave_interrupts
from detkd.errors import CheckpointError, ConfigError, DataError
from detkd.evaluation.class_judge import ClassPredictions
from detkd.evaluation.classes import class_scores, softmax
from detkd.files import digest_of_tree
from detkd.models.class_heads import Exit
from detkd.models.classifier import Classifier, build_classifier, without_exits
from detkd.models.network import Network
from detkd.models.weights import levels_in, read_checkpoint

SCORES = ("balanced_accuracy", "top1")  # the first decides which epoch is the best


@dataclass(frozen=True)
class Sides:
    """The images that are learned from, those that are judged on, and those that are kept back."""

    train: LabelledSet
    val: LabelledSet
    test: LabelledSet | None

    def of(self, name: str) -> LabelledSet:
        """The side called train, val or test.

        Raises:
            DataError: there is no test side.
        """
        chosen = {"train": self.train, "val": self.val, "test": self.test}[name]
        if chosen is None:
            raise DataError(
                f"{self.train.source}: has no side '{name}'; give data.ratios a share of it. Where "
                "data.val names other images nothing is divided: 'detkd eval-cls --data' judges "
                "images of a third source."
            )
        return chosen

    @property
    def digest(self) -> str:
        """Digest of which images, with their labels and groups, are on which side."""
        sides = {"train": self.train, "val": self.val, "test": self.test}
        told = {
            side: sorted([image.file, image.label, image.group or ""] for image in part.images)
            for side, part in sides.items()
            if part
        }
        return digest_of_tree(told)


def check_division(
    division: str | None, source: object, checkpoint: Mapping[str, Any], path: object
) -> None:
    """Compare a source's division with that of a checkpoint's training, where both are known.

    One image more or less divides all others anew, and what was learned from could be on the test
    side.

    Raises:
        DataError: it is another one.
    """
    before = checkpoint.get("division")
    if before and division and before != division:
        raise DataError(
            f"{source}: its images are divided otherwise than when {path} was trained, for some "
            "(or some of data.val) have come, gone, or changed their label or group, so that it "
            "may have learned from images that are kept back now. Put them as they were, or train "
            "anew; 'detkd eval-cls --data' judges images that it has never seen."
        )


def digest_of_division(data: ClassDataConfig) -> str | None:
    """The digest of the sides as the config divides them; None where the images are not there."""
    there = all(Path(source).exists() for source in (data.train, data.val) if source)
    return sides_of(data).digest if there else None


def sides_of(data: ClassDataConfig) -> Sides:
    """The sides as the config divides them.

    Raises:
        DataError: a source that cannot be used, or a division that cannot be made.
        ConfigError: a pattern of groups that fits nothing.
    """
    if data.val and data.folds:
        raise ConfigError("data.folds: folds are made of data.train alone; leave data.val out.")
    whole = read_labelled(data.train).grouped(data.group_pattern, data.group_gap)
    if len(whole.classes) < 2:
        raise DataError(
            f"{data.train}: holds images of '{whole.classes[0]}' alone; two classes at least are "
            "needed, each in a folder of its own, or named in the column 'label'."
        )
    whole = whole.without(data.leave_out)
    if len(whole.classes) < 2:
        raise DataError(
            f"data.leave_out: leaves {', '.join(whole.classes) or 'no class'} of {data.train}; two "
            "classes at least are needed."
        )
    if data.val:
        val = read_labelled(data.val).grouped(data.group_pattern, data.group_gap)
        left_out = [name for name in data.leave_out if name in val.classes]
        if len(left_out) == len(val.classes):
            raise DataError(
                f"{data.val}: holds images of {', '.join(left_out)} alone, which data.leave_out "
                "leaves out; name others, or leave data.val out."
            )
        val = val.without(left_out)
        unknown = sorted(set(val.classes) - set(whole.classes))
        if unknown:
            raise DataError(f"{data.val}: has a class '{unknown[0]}' that {data.train} has not.")
        if shared := in_both(whole, val):
            raise DataError(
                f"{data.val}: {len(shared)} of its {len(val.images)} images are among those of "
                f"{data.train}, the first is {shared[0].file}; what is learned from tells nothing "
                "where it is judged: take them out of one."
            )
        # A class may be missing among the validation images; the numbers are the training's.
        return Sides(whole, LabelledSet(val.source, val.root, whole.classes, val.images), None)
    sides = divide_labelled(whole, data.ratios, seed=data.split_seed)
    test = sides.get("test")
    if data.folds:
        held = {image.file for image in test.images} if test else set()
        rest = [at for at, image in enumerate(whole.images) if image.file not in held]
        train, val = fold_of(whole.part(rest), data.folds, data.fold, seed=data.split_seed)
        return Sides(train, val, test)
    if "train" not in sides or "val" not in sides:
        raise DataError(
            f"data.ratios: {list(data.ratios)} leave nothing to train or to judge on; give both a "
            "share, or name data.val."
        )
    return Sides(sides["train"], sides["val"], test)


def data_of(checkpoint: Mapping[str, Any], path: object) -> ClassDataConfig:
    """The data settings with which the network of a checkpoint was trained.

    Raises:
        CheckpointError: they are none of this version.
    """
    try:
        return ClassDataConfig(**checkpoint["config"]["data"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: its config (written by detkd {checkpoint['version']}) names no data as this "
            f"version knows them: {error}."
        ) from error


def sides_as_trained(data: ClassDataConfig, checkpoint: Mapping[str, Any], path: object) -> Sides:
    """The sides on which the network of a checkpoint was trained and is judged.

    Raises:
        DataError: as `sides_of`, or the images are divided otherwise now.
    """
    sides = sides_of(data)
    check_division(sides.digest, sides.train.source, checkpoint, path)
    return sides


def open_class_data(experiment: ClassifierExperiment) -> tuple[ClassDataset, ClassDataset]:
    """Training and validation images; all of them, and the test's, have been decoded once.

    Raises:
        DataError: images that cannot be used, or a division that cannot be made.
        ConfigError: an augmentation that does not exist.
        CheckpointError: a teacher that cannot be read.
    """
    data, sides = experiment.data, sides_of(experiment.data)
    empty = [name for name, count in sides.train.counts.items() if not count]
    if empty:
        raise DataError(
            f"{data.train}: no image of '{empty[0]}' is left to learn from; its images are of too "
            "few groups. Leave it out (data.leave_out), or divide otherwise (data.split_seed)."
        )
    named = [{image.group for image in side.images} - {None} for side in (sides.train, sides.val)]
    if data.val and (shared := sorted(map(str, named[0] & named[1]))):
        print(
            f"{data.val}: {len(shared)} of its samples are called as samples of {data.train} are, "
            f"'{shared[0]}' for one; if they are the same, scores on them flatter."
        )
    levels = sides.train.levels
    if experiment.distill:  # 16 bits are mapped as the teacher saw them
        levels = levels_in(read_checkpoint(experiment.distill.teacher)) or levels
    train_set = ClassDataset(
        sides.train,
        image_size=data.image_size,
        augment=data.augment,
        randaugment=data.randaugment,
        cache=data.cache,
        mark_views=keeps_views(experiment),
        levels=levels,
        division=sides.digest,
    )
    val_set = ClassDataset(sides.val, image_size=data.image_size, cache=data.cache, levels=levels)
    for each in (train_set, val_set):
        each.check_images()
    if sides.test:  # judged later, when leaving one out would divide all others anew
        size = data.image_size
        ClassDataset(sides.test, image_size=size, cache="none", levels=levels).check_images()
    for line in oddities(read_labelled(data.train), data.leave_out):
        print(line)
    for line in shares(
        [
            ("to learn from", sides.train),
            ("to validate on", sides.val),
            ("for the test", sides.test),
        ]
    ):
        print(line)
    return train_set, val_set


def build_class_loader(
    dataset: ClassDataset, experiment: ClassifierExperiment, fabric: Fabric
) -> DataLoader:
    """Training batches whose order, augmentation and mixing depend on seed and epoch alone."""
    data, train = experiment.data, experiment.train
    classes = len(dataset.classes)
    batches = EpochBatches(
        len(dataset),
        train.batch_size,
        seed=train.seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        views=data.views,
        weights=class_weights(dataset.labels, classes, data.balance),
    )
    return DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=Mixing(classes, data.mixup, data.cutmix),
        num_workers=data.workers,
        worker_init_fn=leave_interrupts if data.workers else None,
        persistent_workers=data.workers > 0,
        pin_memory=fabric.device.type == "cuda",
        generator=torch.Generator().manual_seed(train.seed),
    )


def build_class_trainable(
    experiment: ClassifierExperiment, dataset: ClassDataset, loader: DataLoader
) -> Classifier | ClassifierDistiller | SelfDistiller:
    """The network of the config; with its teacher, or as its own, where it is to be distilled.

    Raises:
        ConfigError: parts that do not fit, of the network or of teacher and student.
        CheckpointError: weights or a teacher that cannot be used.
    """
    model, distill, own = experiment.model, experiment.distill, experiment.self_distill
    check_one_teacher(experiment)
    if model.cut and own:
        raise ConfigError(
            "model.cut: a network that ends at an exit has no deeper one to teach it; leave "
            "self_distill out, or train the whole and cut it with 'detkd eval-cls --cut'."
        )
    if model.cut and model.exits:
        raise ConfigError(
            "model.exits: a network that ends at the exit on model.cut has no others; leave one of "
            "the two out."
        )
    if model.exits and not own:
        raise ConfigError("model.exits: exits are trained by self_distill; give it, or leave them.")
    torch.manual_seed(experiment.train.seed)
    network = build_classifier(
        model,
        dataset.classes,
        experiment.data.image_size,
        loss=experiment.loss,
        counts=drawn_counts(list(dataset.data.counts.values()), experiment.data.balance),
    )
    network.levels, network.division = dataset.levels, dataset.division
    stride, side = network.backbone.features[network.deepest].stride, experiment.data.image_size
    if isinstance(network.head, Exit):
        stride = network.head.stride
    assert isinstance(loader.batch_sampler, EpochBatches)
    if loader.batch_sampler.batch_size == 1 and stride >= side:
        raise ConfigError(
            f"train.batch_size: at {side} px the deepest stage is one cell, and one cell of one "
            "image cannot be normalised; take 2 images or more."
        )
    if own:
        return SelfDistiller(network, own)
    if not distill:
        return network
    if distill.balance != "fixed" and not experiment.loss.weight:
        raise ConfigError(
            f"distill.balance: '{distill.balance}' goes by how the task pulls, and with a "
            "loss.weight of 0 it does not; take fixed, or give the labels a weight."
        )
    if distill.cache and (experiment.data.mixup or experiment.data.cutmix):
        raise ConfigError(
            "distill.cache: data.mixup and data.cutmix make ever new images, so that nothing would "
            "be read again; leave one of the two out."
        )
    return build_classifier_distiller(
        network,
        without_exits(Classifier.load(distill.teacher)),
        distill,
        steps=all_steps(experiment.train, len(loader)),
        images=len(dataset),
        views=_views(experiment.data),
    )


def _views(data: ClassDataConfig) -> int | None:
    """How many views of an image there can be at all; None for ever new ones."""
    if data.mixup or data.cutmix:
        return None
    return data.views or (None if data.randaugment else VIEWS.get(data.augment))


@torch.no_grad()
def predict_classes(
    network: Classifier,
    dataset: ClassDataset,
    *,
    batch_size: int = 32,
    device: str | torch.device | None = None,
    chosen: list[int] | None = None,
) -> ClassPredictions:
    """What the network says of each image, in the data set's order.

    The network is put into evaluation mode for it and back after it. `chosen` are places of images
    in the data set; all of them, if it is not given.
    """
    device = device or next(network.parameters()).device
    training = network.training
    network.to(device).eval()
    places = list(range(len(dataset))) if chosen is None else chosen
    found: list[dict[str, torch.Tensor]] = []
    for start in range(0, len(places), batch_size):
        images = [dataset[at][0].to(device) for at in places[start : start + batch_size]]
        found += network(images)
    network.train(training)
    exits = [each["exits"].cpu().numpy() for each in found] if network.exits else None
    return ClassPredictions(
        dataset.classes,
        tuple(dataset.data.images[at].file for at in places),
        tuple(dataset.groups[at] for at in places),
        dataset.labels[places],
        np.stack([each["logits"].cpu().numpy() for each in found]).astype(float),
        None if exits is None else np.stack(exits).astype(float),
    )


def build_class_judge(dataset: ClassDataset, experiment: ClassifierExperiment) -> Judge:
    """A function that gives a network's scores on `dataset`; of exits, the top-1 of each."""

    def judge(network: Network) -> dict[str, Any]:
        assert isinstance(network, Classifier)
        said = predict_classes(network, dataset, batch_size=experiment.train.batch_size)
        scores: dict[str, Any] = class_scores(said.probabilities, said.labels)
        if said.exits is not None:
            for at, name in enumerate(network.exits):
                own = class_scores(softmax(said.exits[:, at]), said.labels)
                scores[f"top1@{name}"] = own["top1"]
        return scores

    return judge
