"""What `detkd train --suggest-weights` does instead of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from detkd.config import Experiment


def suggest(experiment: Experiment) -> None:
    """Measure the terms of the config on a few batches, and print weights for them."""
    from detkd.distill.distiller import Distiller
    from detkd.engine.devices import build_fabric
    from detkd.engine.parts import build_loader, build_trainable, open_data
    from detkd.engine.suggest import ALONE, suggest_weights
    from detkd.errors import ConfigError

    fabric = build_fabric(experiment.train)
    train_set, _ = open_data(experiment)
    loader = build_loader(train_set, experiment, fabric)
    distiller = build_trainable(experiment, train_set.classes, loader)
    if not isinstance(distiller, Distiller) or not len(distiller.terms):
        raise ConfigError("--suggest-weights: the config has no distill.losses to measure.")
    print(f"at weight 1, after {ALONE} steps of the task alone, as shares of the task's:")
    for found in suggest_weights(distiller, loader, experiment, fabric):
        weight = "no pull at all" if found["weight"] is None else f"weight: {found['weight']:g}"
        at = ", ".join(found["at"])
        sizes = f"loss {found['loss']:.3g}, pull {found['pull']:.3g}"
        print(f"  {found['term']} at [{at}]: {sizes}; for half of the task's pull, {weight}")
