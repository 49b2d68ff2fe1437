"""Weights for distillation terms, measured on the first steps of a training."""

from __future__ import annotations

from itertools import islice
from statistics import median
from typing import Any

import torch
from lightning_fabric import Fabric
from torch.utils.data import DataLoader

from detkd.config import AnyExperiment, ClassifierExperiment
from detkd.data.sampler import EpochBatches
from detkd.distill.distiller import Distiller
from detkd.distill.teaching import Teaching, of_student
from detkd.distill.terms import Term
from detkd.engine.devices import seed_step
from detkd.engine.optimiser import build_optimizer
from detkd.errors import ConfigError

SHARE = 0.5  # of the task's pull at the backbone that a term is to have
ALONE, MEASURED = 50, 12  # steps on the task alone, then steps that are measured


def suggest_weights(
    distiller: Teaching[Any], loader: DataLoader, experiment: AnyExperiment, fabric: Fabric
) -> list[dict[str, Any]]:
    """For each term its size and pull at weight 1, and the weight that gives it half of the task's.

    The student first learns the task for 50 steps: the gradients of a fresh one say little. It is
    changed by that; throw it away. `loss` and `pull` are shares of the task's, medians over 12
    batches.

    Raises:
        ConfigError: the labels count for nothing.
    """
    if of_labels(experiment) == 0:
        raise ConfigError(
            "--suggest-weights: with loss.weight 0 there is no task that the terms could be "
            "measured by; give it a weight, or choose theirs by the validation images."
        )
    train, sampler = experiment.train, loader.batch_sampler
    assert isinstance(sampler, EpochBatches)
    terms: list[Term] = list(distiller.terms)  # type: ignore[arg-type]
    distiller.to(fabric.device).train()
    distiller.balance.every, distiller.balance.kind = 1, "fixed"
    if isinstance(distiller, Distiller):
        distiller.task_from = 0.0
    optimizer = build_optimizer(distiller, train)
    sizes: list[list[float]] = [[] for _ in terms]
    pulls: list[list[float]] = [[] for _ in terms]
    for step, (images, targets) in enumerate(_batches(loader, sampler, ALONE + MEASURED)):
        measuring = step >= ALONE
        for term in terms:
            term.weight = 1.0 if measuring else 0.0
            term.config.schedule.start, term.config.schedule.stop = 0.0, 1.0
            term.config.schedule.warmup, term.config.schedule.every = 0, 1
            term.config.schedule.decay = "none"
        seed_step(train.seed, step, fabric.global_rank)
        losses = distiller(
            [image.to(fabric.device) for image in images],
            [{key: value.to(fabric.device) for key, value in target.items()} for target in targets],
        )
        if measuring:
            task = sum(float(v.detach()) for k, v in losses.items() if of_student(k))
            for at, term in enumerate(terms):
                size = sum(float(losses[name].detach()) for name in term.names())
                sizes[at].append(size / task)
                pulls[at].append(distiller.balance.pulls.get(at, 0.0))
            continue
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(distiller.parameters(), train.clip or 1e9)
        optimizer.step()
    return [
        {
            "term": term.label,
            "at": list(term.config.at),
            "loss": median(size),
            "pull": median(pull),
            "weight": float(f"{SHARE / median(pull):.2g}") if median(pull) else None,
        }
        for term, size, pull in zip(terms, sizes, pulls, strict=True)
    ]


def of_labels(experiment: AnyExperiment) -> float:
    """What the labels count for beside the terms."""
    return experiment.loss.weight if isinstance(experiment, ClassifierExperiment) else 1.0


def _batches(loader: DataLoader, sampler: EpochBatches, count: int) -> Any:
    """So many batches, from as many epochs as they need."""
    epoch = 0
    while count > 0:
        sampler.set_epoch(epoch, 0)
        taken = 0
        for batch in islice(loader, count):
            taken += 1
            yield batch
        count, epoch = count - taken, epoch + 1
