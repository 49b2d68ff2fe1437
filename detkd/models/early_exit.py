"""Prediction that stops at the first exit that is sure; what lies behind it is not run."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from detkd.models.classifier import Classifier

LAST = "last"  # the name of the head, as the deepest of the exits


def each_exit(network: Classifier, images: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The logits [N, K] of each exit by its stage, then of the head (`last`), one when asked for.

    Stages run as far as the exit that is asked for, and no further.

    Raises:
        ConfigError: exits on a backbone that runs as a whole.
    """
    x = network.batch(images)
    if network.backbone.whole and not network.exits:
        yield LAST, network.head(network.backbone(x)[network.deepest])[1].float()
        return
    for name, stage in network.backbone.split().items():
        x = stage(x)
        if name in network.exits:
            yield name, network.exits[name](x)[1].float()
    yield LAST, network.head(x)[1].float()


@torch.no_grad()
def classify_early(network: Classifier, image: Tensor, threshold: float) -> tuple[str, Tensor]:
    """Where an image [3, S, S] is decided, and its logits [K].

    An exit is sure when its greatest probability reaches `threshold`; the head always is.
    """
    for name, logits in each_exit(network, image[None]):
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
