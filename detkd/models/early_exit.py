"""Prediction that stops at the first exit that is sure; what lies behind it is not run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from detkd.models.classifier import Classifier

LAST = "last"  # the name of the head, as the deepest of the exits


def parts_by_exit(network: Classifier) -> dict[str, tuple[nn.Sequential, nn.Module]]:
    """The stages from one exit to the next, and the exit at their end, by its name.

    The head is the one called `last`.

    Raises:
        ConfigError: the backbone runs as a whole.
    """
    parts: dict[str, tuple[nn.Sequential, nn.Module]] = {}
    passed: list[nn.Module] = []
    for name, stage in network.backbone.split().items():
        passed.append(stage)
        if name in network.exits:
            parts[name] = nn.Sequential(*passed), network.exits[name]
            passed = []
    return {**parts, LAST: (nn.Sequential(*passed), network.head)}


def each_exit(network: Classifier, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The logits [N, K] of each exit by its stage, then of the head (`last`), one when asked for.

    Stages run as far as the exit that is asked for, and no further.

    Raises:
        ConfigError: exits on a backbone that runs as a whole.
    """
    x = network.batch(images)
    if not network.exits:
        yield LAST, network.head(network.backbone(x)[network.deepest])[1].float()
        return
    for name, (stages, end) in parts_by_exit(network).items():
        x = stages(x)
        yield name, end(x)[1].float()


@torch.no_grad()
def classify_early(network: Classifier, image: Tensor, threshold: float) -> tuple[str, Tensor]:
    """Where an image [3, S, S] is decided, and its logits [K].

    An exit is sure when its greatest probability reaches `threshold`; the head always is.
    """
    return first_sure(each_exit(network, image[None]), threshold)


def first_sure(exits: Iterable[tuple[str, Tensor]], threshold: float) -> tuple[str, Tensor]:
    """The first of the exits that is sure of its one image, and its logits [K] of [1, K]."""
    for name, logits in exits:
        if name == LAST or float(logits.softmax(1).max()) >= threshold:
            return name, logits[0]
    raise AssertionError("the head is the last of the exits")


@torch.no_grad()
def exit_flops(network: Classifier, image_size: int) -> dict[str, int]:
    """Operations (multiply and add apart) until each exit and the head, the exits before included.

    Those of convolutions and matrix products.
    """
    from torch.utils.flop_counter import FlopCounterMode

    training = network.training
    network.eval()
    device = next(network.parameters()).device
    found = {}
    with FlopCounterMode(display=False) as counter:
        for name, _ in each_exit(network, torch.zeros(1, 3, image_size, image_size, device=device)):
            found[name] = int(counter.get_total_flops())
    network.train(training)
    return found
