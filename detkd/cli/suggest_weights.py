"""What `detkd train` and `detkd train-cls` do instead of training with `--suggest-weights`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from detkd.config import Experiment

if TYPE_CHECKING:
    from lightning_fabric import Fabric

    from detkd.config import AnyExperiment, ClassifierExperiment


def suggest(experiment: AnyExperiment) -> None:
    """Measure the terms of the config on a few batches, and print weights for them."""
    from detkd.distill.teaching import Teaching
    from detkd.engine.devices import build_fabric
    from detkd.engine.suggest import ALONE, suggest_weights
    from detkd.errors import ConfigError

    fabric = build_fabric(experiment.train)
    if isinstance(experiment, Experiment):
        distiller, loader = of_detector(experiment, fabric)
    else:
        distiller, loader = of_classifier(experiment, fabric)
    if not isinstance(distiller, Teaching) or not len(distiller.terms):
        raise ConfigError("--suggest-weights: the config has no distill.losses to measure.")
    print(f"at weight 1, after {ALONE} steps of the task alone, as shares of the task's:")
    for found in suggest_weights(distiller, loader, experiment, fabric):
        weight = "no pull at all" if found["weight"] is None else f"weight: {found['weight']:g}"
        at = ", ".join(found["at"])
        sizes = f"loss {found['loss']:.3g}, pull {found['pull']:.3g}"
        print(f"  {found['term']} at [{at}]: {sizes}; for half of the task's pull, {weight}")


def of_detector(experiment: Experiment, fabric: Fabric) -> tuple[Any, Any]:
    """What a detector's config trains, and its batches."""
    from detkd.engine.parts import build_loader, build_trainable, open_data
    from detkd.engine.preflight import check_teacher

    train_set, val_set = open_data(experiment)
    loader = build_loader(train_set, experiment, fabric)
    if distill := experiment.distill:
        check_teacher(distill.teacher, val_set, distill.preflight, fabric.device)
    return build_trainable(experiment, train_set.classes, loader), loader


def of_classifier(experiment: ClassifierExperiment, fabric: Fabric) -> tuple[Any, Any]:
    """What a classifier's config trains, and its batches."""
    from detkd.engine.class_parts import (
        build_class_loader,
        build_class_trainable,
        open_class_data,
    )
    from detkd.engine.class_preflight import check_class_teacher

    train_set, val_set = open_class_data(experiment)
    loader = build_class_loader(train_set, experiment, fabric)
    check_class_teacher(experiment, train_set, val_set)
    return build_class_trainable(experiment, train_set, loader), loader
