"""What a classifier costs while it learns and when it answers, as ratios measured side by side.

The networks are those of configs/marine and configs/self_distill, for 19 classes.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

from detkd.config import ClassifierConfig, TeachConfig, TermConfig, TrainConfig
from detkd.data.class_dataset import ClassDataset, Mixing
from detkd.data.labelled_images import LabelledImage, LabelledSet
from detkd.distill.classifier_distiller import build_classifier_distiller
from detkd.engine.benchmarks import Batch, step_of, take_turns
from detkd.engine.devices import choose_device
from detkd.errors import CheckpointError
from detkd.models.classifier import Classifier, build_classifier, without_exits
from detkd.models.early_exit import LAST, each_exit, exit_flops

CLASSES = tuple(str(at) for at in range(19))
TEACHER = ClassifierConfig("resnet18", attention="cbam")
STUDENT = ClassifierConfig("shallow_x1")
RIVAL = ClassifierConfig("mobilenet_v3_small", head="published")
OWN_TEACHER = ClassifierConfig("resnet18", convolutions="depthwise", exits=["c2", "c3", "c4"])
TERM = TermConfig("kl", ["logits"], 1.0, {"temperature": 4.0})
HINT = TermConfig("hint", ["c4"], 6.0)
IMAGES = 16  # on which a network and what was deployed of it are compared
LOGITS = 10.0  # of about this size are those of a trained network
CALLS = 10  # answers in a row, as in a stream of crops

Answer = Callable[[np.ndarray], np.ndarray]


def bench_classify(
    steps: int,
    image_size: int,
    batch_size: int,
    *,
    deploy: Callable[[Classifier], Answer],
    run: Path | None = None,
) -> dict[str, Any]:
    """All ratios of classifiers.

    Args:
        steps: timed rounds of each kind.
        image_size: side in px of all images.
        batch_size: images a training step.
        deploy: gives what a network becomes where it is used, on one thread.
        run: of a network with exits, whose share of stopped images is to be counted with.

    Raises:
        CheckpointError: the run has no network with exits, or was not judged.
    """
    network, shares = _with_exits(image_size, run)  # first: it may be refused
    return {
        "training": _training(steps, image_size, batch_size),
        "answering": _answering(steps, image_size, deploy),
        "exits": _exits(steps, network, shares),
    }


def _training(steps: int, image_size: int, batch_size: int) -> dict[str, float]:
    """A plain student's step with its batch, and a distilled one's: with the teacher, or its cache.

    The cache holds what is asked for, as from a view's second time on; with it there is a student
    with a hint besides, too. The teacher's forward pass is measured alone.
    """
    device, train = choose_device("auto"), TrainConfig()
    teacher = _network(TEACHER, image_size).to(device).eval()
    with tempfile.TemporaryDirectory() as folder:
        crops = _crops(Path(folder) / "crops", batch_size, image_size)
        dataset, marked = (
            ClassDataset(crops, image_size=image_size, augment="turns", mark_views=marks)
            for marks in (False, True)
        )
        plain = _network(STUDENT, image_size)
        live, cached, hinted = (
            build_classifier_distiller(
                _network(STUDENT, image_size),
                deepcopy(teacher),
                TeachConfig("", terms, cache=cache, cache_folder=f"{folder}/kept"),
                images=batch_size,
                views=1,
            )
            for cache, terms in ((False, [TERM]), (True, [TERM]), (True, [TERM, HINT]))
        )
        for module in (plain, teacher, live, cached, hinted):
            module.to(device).to(memory_format=torch.channels_last)  # as in `fit`
        batch = torch.stack([dataset[at, 0][0] for at in range(batch_size)]).to(device)

        @torch.no_grad()
        def forward() -> None:
            teacher(batch)

        plain_s, live_s, cached_s, hinted_s, forward_s = take_turns(
            [
                _with_its_batch(plain, train, dataset, device),
                _with_its_batch(live, train, dataset, device),
                _with_its_batch(cached, train, marked, device),
                _with_its_batch(hinted, train, marked, device),
                forward,
            ],
            steps,
        )
    return {
        "plain_step_s": plain_s,
        "teacher_forward_s": forward_s,
        "distilling_step_s": live_s,
        "cached_step_s": cached_s,
        "cached_hint_step_s": hinted_s,
        "to_sum": live_s / (plain_s + forward_s),
        "to_plain": live_s / plain_s,
        "cached_to_plain": cached_s / plain_s,
        "cached_hint_to_plain": hinted_s / plain_s,
    }


def _answering(
    steps: int, image_size: int, deploy: Callable[[Classifier], Answer]
) -> dict[str, float]:
    """Milliseconds of one image on one thread, of the student and of MobileNetV3-small.

    And the greatest difference between the logits of what was deployed and of the network, over
    some images, beside the greatest of the student's logits.
    """
    image = np.random.default_rng(0).random((1, 3, image_size, image_size), dtype=np.float32)
    networks = [_used(_network(config, image_size)) for config in (STUDENT, RIVAL)]
    answers = [deploy(network) for network in networks]
    student, rival = _shortest([partial(answer, image) for answer in answers], steps)
    apart = [
        difference(network, answer, image_size)
        for network, answer in zip(networks, answers, strict=True)
    ]
    return {
        "student_ms": 1000 * student,
        "mobilenet_v3_small_ms": 1000 * rival,
        "to_mobilenet_v3_small": student / rival,
        "student_logits": apart[0][1],
        "student_difference": apart[0][0],
        "mobilenet_v3_small_difference": apart[1][0],
    }


@torch.no_grad()
def difference(network: Classifier, answer: Answer, image_size: int) -> tuple[float, float]:
    """The greatest difference of logits over images of noise, and the greatest logit."""
    torch.manual_seed(1)
    images = torch.rand(IMAGES, 3, image_size, image_size)
    ours = torch.stack([each["logits"] for each in network(images)]).numpy()
    return float(np.abs(answer(images.numpy()) - ours).max()), float(np.abs(ours).max())


@torch.no_grad()
def _used(network: Classifier) -> Classifier:
    """In evaluation mode, with statistics of images, and logits as great as a trained one's."""
    network.train()
    side = network.image_size
    for _ in range(3):
        network.read(network.batch(torch.rand(IMAGES, 3, side, side)))
    network.eval()
    found = torch.stack([each["logits"] for each in network(torch.rand(IMAGES, 3, side, side))])
    for weight in network.head.classes.parameters():
        weight.mul_(LOGITS / found.abs().max())
    return network


def _exits(steps: int, network: Classifier, shares: Mapping[str, float]) -> dict[str, Any]:
    """Milliseconds and operations of one image until each exit and the head, on one thread.

    `alone` is the head without an exit on the way: what is saved is saved of that. The shares of
    images that stop at each exit, where they are known, make a mean.
    """
    side = network.image_size
    image = torch.rand(1, 3, side, side)
    flops = exit_flops(network, side)
    alone = without_exits(network)
    with _one_thread(), torch.no_grad():
        times = _shortest(
            [
                *[partial(_until, network, image, name) for name in flops],
                partial(_until, alone, image, LAST),
            ],
            steps,
        )
    names = [*flops, "alone"]
    operations = [*flops.values(), exit_flops(alone, side)[LAST]]
    found: dict[str, Any] = {
        name: {
            "ms": 1000 * seconds,
            "mflops": count / 1e6,
            "time_to_alone": seconds / times[-1],
            "flops_to_alone": count / operations[-1],
        }
        for name, seconds, count in zip(names, times, operations, strict=True)
    }
    if shares:
        found["run"] = {
            "shares": shares,
            "time_saved": 1 - sum(shares[name] * found[name]["time_to_alone"] for name in shares),
            "flops_saved": 1 - sum(shares[name] * found[name]["flops_to_alone"] for name in shares),
        }
    return found


def _with_exits(image_size: int, run: Path | None) -> tuple[Classifier, dict[str, float]]:
    """A network with exits, and how many of a run's validation images stopped at each."""
    if run is None:
        return _network(OWN_TEACHER, image_size).cpu().eval(), {}
    network = Classifier.load(run / "best.pt")
    try:
        early = json.loads((run / "metrics.json").read_text())["early"]["exits"]
        shares = {name: float(early[name]["share"]) for name in (*network.exits, LAST)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{run}: has no metrics.json of a network with exits; name the run of one that was its "
            "own teacher, such as runs/self-resnet18-distill."
        ) from error
    return network, shares


def _until(network: Classifier, image: torch.Tensor, last: str) -> None:
    """Run as far as this exit, and look at each on the way."""
    for name, logits in each_exit(network, image):
        float(logits.softmax(1).max())
        if name == last:
            return


def _shortest(calls: Sequence[Callable[[], object]], rounds: int) -> list[float]:
    """Seconds of the shortest call of each: what a busy machine adds is nobody's.

    They take turns, each so many times in a row; the first time, with the other's data in the
    processor's cache, does not count.
    """
    found = [float("inf")] * len(calls)
    for _ in range(rounds):
        for at, call in enumerate(calls):
            call()
            for _ in range(CALLS):
                began = time.perf_counter()
                call()
                found[at] = min(found[at], time.perf_counter() - began)
    return found


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _network(config: ClassifierConfig, image_size: int) -> Classifier:
    torch.manual_seed(0)
    return build_classifier(config, CLASSES, image_size)


def _with_its_batch(
    module: nn.Module, train: TrainConfig, dataset: ClassDataset, device: str
) -> Callable[[], None]:
    """A step as the shortest loop has it, with one view of each image, augmented anew."""
    collate = Mixing(len(dataset.classes))

    def step() -> None:
        images, targets = collate([dataset[at, at] for at in range(len(dataset))])
        batch[0][:] = [image.to(device) for image in images]
        batch[1][:] = [{key: value.to(device) for key, value in t.items()} for t in targets]
        of_batch()

    batch: Batch = ([], [])
    of_batch = step_of(module, train, batch)
    return step


def _crops(folder: Path, count: int, image_size: int) -> LabelledSet:
    """So many crops of noise."""
    random = np.random.default_rng(0)
    images = []
    for at in range(count):
        images.append(LabelledImage(f"{at}.png", CLASSES[at % len(CLASSES)]))
        pixels = random.integers(0, 256, (image_size, image_size, 3), dtype=np.uint8)
        folder.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(folder / images[-1].file)
    return LabelledSet(folder, folder, CLASSES, tuple(images))
