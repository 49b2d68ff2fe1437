"""The training loop: the only one, for detectors, distillers and classifiers.

A trainable maps `(images, targets)` to a dictionary of losses; its `network` is what is judged
and kept. Read `fit` from top to bottom: nothing else happens.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.utils.data import DataLoader

from detkd.config import AnyExperiment, ClassifierExperiment, TrainConfig
from detkd.data.sampler import EpochBatches
from detkd.distill.classifier_distiller import ClassifierDistiller
from detkd.distill.detector_exits import DetectorSelfDistiller
from detkd.distill.distiller import Distiller
from detkd.distill.self_distiller import SelfDistiller
from detkd.distill.teaching import Teaching, of_task
from detkd.engine.average import Average
from detkd.engine.checkpoint import Progress, State, load_checkpoint, save_checkpoint
from detkd.engine.devices import peak_memory, seed_step
from detkd.engine.optimiser import build_optimizer, lr_factor, set_lr
from detkd.engine.progress import Display
from detkd.engine.run import Log, RunFolder
from detkd.engine.stops import STOPS, on_signals
from detkd.engine.watch import Watch
from detkd.errors import ConfigError, UserError
from detkd.models.network import Network

FAR = 0.05  # of a score, by which averaged weights are told to be worse than the newest
Trainable = Network | Distiller | ClassifierDistiller | SelfDistiller | DetectorSelfDistiller
Judge = Callable[[Network], dict[str, Any]]


def all_steps(train: TrainConfig, batches: int) -> int:
    """The steps of a whole training whose epochs have so many batches.

    Raises:
        ConfigError: an epoch has too few for one step.
    """
    if batches < train.accumulate:
        raise ConfigError(
            f"train.accumulate: {train.accumulate} batches make a step, and an epoch has "
            f"{batches}; lower it, or train.batch_size."
        )
    return train.epochs * (batches // train.accumulate)


def fit(
    trainable: Trainable,
    loader: DataLoader,
    judge: Judge,
    experiment: AnyExperiment,
    run: RunFolder,
    fabric: Fabric,
    *,
    scores: tuple[str, ...] = ("AP", "AP50"),
    resume: bool = False,
) -> Progress:
    """Train until the config's end; leaves `last.pt`, `best.pt` and the log in the run folder.

    `loader` has an `EpochBatches` as its batch sampler. `judge` gives a network's metrics; the
    first of `scores` decides which epoch is the best, and all of them are shown. Interrupted by
    Ctrl-C, it saves and raises KeyboardInterrupt; with `resume` it goes on from `last.pt`, if there
    is one.

    Raises:
        UserError: a loss or a gradient is not finite, or a distillation term drowns the task.
    """
    train, sampler = experiment.train, loader.batch_sampler
    assert isinstance(sampler, EpochBatches)
    classes = trainable.network.classes
    optimizer = build_optimizer(trainable, train)
    # Channels last is the layout that convolutions are fast in, on the CPU as on a GPU.
    trainable.to(fabric.device).to(memory_format=torch.channels_last)
    average = Average(trainable.network, train.ema) if train.ema else None
    model, wrapped_optimizer = fabric.setup(trainable, optimizer)
    state = State(trainable, trainable.network, optimizer, average, Progress(), fabric)
    if resume and run.last.is_file():
        load_checkpoint(run.last, state)
    progress = state.progress
    steps = all_steps(train, len(sampler))

    distill = experiment.distill
    task_from = getattr(distill, "task_from", 0.0)
    watch = None
    if distill and distill.balance != "auto":
        watch = Watch(train.warmup, _guessing(experiment, len(classes)))

    def save_last() -> None:
        if fabric.is_global_zero:
            save_checkpoint(run.last, state, experiment, classes, resumable=True)

    began = time.monotonic() - progress.seconds
    with (
        Log(run, since_step=progress.step) if fabric.is_global_zero else nullcontext() as log,
        Display(
            experiment.name, train.epochs, len(sampler), fabric.is_global_zero, scores
        ) as display,
        _interruptible() as interrupted,
    ):
        if progress.epoch >= train.epochs or _stale(progress, train):
            display.tell(f"has ended after epoch {progress.epoch}; it is judged once more")
        while progress.epoch < train.epochs and not _stale(progress, train):
            sampler.set_epoch(progress.epoch, progress.batch)
            model.train()
            waited, epoch_began, measured = 0.0, time.monotonic(), dict[str, float]()
            for images, targets, wait in _timed(loader):
                waited += wait
                progress.batch += 1
                is_step = progress.batch % train.accumulate == 0
                seed_step(
                    train.seed, progress.epoch * len(sampler) + progress.batch, fabric.global_rank
                )
                images = [image.to(fabric.device, non_blocking=True) for image in images]
                targets = [_to(target, fabric.device) for target in targets]
                if isinstance(trainable, Teaching):
                    trainable.step.fill_(progress.step)
                with fabric.no_backward_sync(model, enabled=not is_step):
                    losses = model(images, targets)
                    total = sum(losses.values())
                    values = _finite(losses, progress.step, run)
                    if watch:
                        watch.look(values, progress.step)
                    fabric.backward(total / train.accumulate)
                measured |= _report(trainable)
                if watch:
                    watch.measured(measured)
                display.step(progress.epoch, progress.batch, values)
                if not is_step:
                    continue
                set_lr(optimizer, lr_factor(progress.step, steps, train))
                if train.clip:
                    norm = fabric.clip_gradients(
                        model, wrapped_optimizer, max_norm=train.clip, error_if_nonfinite=False
                    )
                    if train.precision != "fp16" and norm is not None and not math.isfinite(norm):
                        raise UserError(
                            f"step {progress.step}: the gradient is not finite, though the losses "
                            f"are.{_last_good(run)} Lower train.lr, or use train.precision: 32."
                        )
                wrapped_optimizer.step()
                wrapped_optimizer.zero_grad()
                if average:
                    average.update(trainable.network)
                progress.seconds = time.monotonic() - began
                if log:
                    log.write(
                        "train",
                        progress.step,
                        {
                            **values,
                            **measured,
                            "lr": max(group["lr"] for group in optimizer.param_groups),
                        },
                    )
                progress.step, measured = progress.step + 1, {}
                if interrupted():
                    save_last()
                    raise KeyboardInterrupt(_way_on(run))
                if train.save_every and progress.step % train.save_every == 0:
                    save_last()
            wrapped_optimizer.zero_grad()
            progress.epoch, progress.batch = progress.epoch + 1, 0
            epoch_seconds = time.monotonic() - epoch_began
            memory = peak_memory(fabric.device)
            if log and (progress.epoch % train.judge_every == 0 or progress.epoch == train.epochs):
                display.judging()
                metrics = judge(average.network if average else trainable.network)
                score = metrics[scores[0]] if metrics[scores[0]] is not None else 0.0
                # While a student learns from its teacher alone, its score says little: the newest
                # weights are kept, and no patience is lost.
                if score > progress.best or progress.step - 1 < task_from * steps:
                    progress.best, progress.best_epoch = score, progress.epoch
                    save_checkpoint(run.best, state, experiment, classes, resumable=False)
                log.write(
                    "val",
                    progress.step - 1,
                    {
                        "epoch": progress.epoch,
                        **metrics,
                        "epoch_seconds": round(epoch_seconds, 2),
                        "data_wait": round(waited / max(epoch_seconds, 1e-9), 4),
                        "memory_mib": memory,
                        "seconds": round(time.monotonic() - began, 1),
                    },
                )
                display.judged(progress.epoch, metrics)
                if average and progress.epoch == train.epochs:
                    newest = judge(trainable.network)[scores[0]] or 0.0
                    if newest > score + FAR:
                        display.tell(
                            f"the newest weights have {newest:.3f}, the averaged ones, which are "
                            f"kept, {score:.3f}: train.ema: 0 keeps the newest"
                        )
            progress.best, progress.best_epoch = fabric.broadcast(
                (progress.best, progress.best_epoch)
            )
            progress.seconds = time.monotonic() - began
            save_last()
            fabric.barrier()
            if _stale(progress, train) and progress.epoch < train.epochs:
                display.tell(
                    f"ended after epoch {progress.epoch} of {train.epochs}: epoch "
                    f"{progress.best_epoch} was the best, and train.early_stop is "
                    f"{train.early_stop}"
                )
            if interrupted():
                raise KeyboardInterrupt(_way_on(run))
    return progress


def _guessing(experiment: AnyExperiment, classes: int) -> float:
    """What a classifier's guesses cost; 0 of a detector, whose task never costs next to nothing.

    A low weight of the labels does not lower it: it says that terms are to teach more.
    """
    if not isinstance(experiment, ClassifierExperiment):
        return 0.0
    return max(1.0, experiment.loss.weight) * math.log(classes)


def _stale(progress: Progress, train: Any) -> bool:
    """Whether the best epoch lies so far back that training ends early.

    Only where an epoch was judged: of one that was not, nobody knows that it is no better.
    """
    waited = progress.epoch - progress.best_epoch
    judged = progress.best_epoch >= 0 and progress.epoch % train.judge_every == 0
    return bool(train.early_stop) and judged and waited >= train.early_stop


def _timed(loader: DataLoader) -> Iterator[tuple[list[Tensor], list[dict[str, Tensor]], float]]:
    """Batches, each with the seconds that the loop waited for it."""
    began = time.monotonic()
    for images, targets in loader:
        yield images, targets, time.monotonic() - began
        began = time.monotonic()


def _to(target: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {key: value.to(device, non_blocking=True) for key, value in target.items()}


def _report(trainable: Trainable) -> dict[str, float]:
    """What a distiller measured at this step."""
    return trainable.report() if isinstance(trainable, Teaching) else {}


def _finite(losses: dict[str, Tensor], step: int, run: RunFolder) -> dict[str, float]:
    """The losses as numbers, or a sentence that names the one that is not finite."""
    numbers = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
    values = dict(zip(losses, numbers, strict=True))
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if not bad:
        return values
    task = sum(v for k, v in values.items() if of_task(k) and math.isfinite(v))
    terms = [name for name in bad if not of_task(name)]
    way_out = (
        "Lower its weight, or see docs/methods.md#balance."
        if terms
        else "Lower train.lr, raise train.warmup, or set train.clip."
    )
    name = (terms or bad)[0]
    raise UserError(
        f"step {step}: {'term' if terms else 'loss'} '{name}' is not finite (the task loss was "
        f"{task:.2f}).{_last_good(run)} {way_out}"
    )


def _way_on(run: RunFolder) -> str:
    return f"saved {run.last}; the same command with --resume goes on"


def _last_good(run: RunFolder) -> str:
    if run.last.is_file():
        return f" The last good checkpoint is {run.last}."
    return " There is no checkpoint yet."


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C end the step that is under way; a second one ends the program at once.

    So does the signal by which `kill`, and a cluster whose time is up, ask a process to end.
    """
    seen: list[int] = []

    def remember(number: int, frame: object) -> None:
        seen.append(number)
        for each in STOPS:
            signal.signal(each, signal.default_int_handler)

    with on_signals(STOPS, remember):
        yield lambda: bool(seen)
