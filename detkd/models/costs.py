"""Parameters and operations of networks, counted by running them: of detectors part by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from detkd.config import ClassifierConfig
from detkd.markdown import markdown_table
from detkd.models.classifier import Classifier, build_classifier, cut_at, without_exits
from detkd.models.detector import Detector
from detkd.models.early_exit import LAST, exit_flops

# The parts of a detector in the order in which they run, and what a table calls them.
PARTS = {
    "backbone": "backbone",
    "neck": "neck",
    "rpn_head": "RPN head",
    "proposals": "proposals",
    "roi_align": "RoIAlign",
    "roi_head": "RoI head",
    "detections": "detections",
    "rest": "rest",
}
# The modules of those that have weights. What cuts out the RoI features may reduce the levels
# before (`reduce`), and that is the RoI head's.
MODULES = {
    "backbone": ("backbone.body",),
    "neck": ("backbone.neck",),
    "rpn_head": ("rpn.head",),
    "roi_head": (
        "roi_heads.box_roi_pool.reduce",
        "roi_heads.box_head",
        "roi_heads.box_predictor",
    ),
}


def parameters_by_part(detector: Detector) -> dict[str, int]:
    """Weights of each part; they add up to the detector's."""
    modules = dict(detector.named_modules())
    return {
        part: sum(
            weight.numel()
            for path in MODULES.get(part, ())
            if path in modules
            for weight in modules[path].parameters()
        )
        for part in PARTS
    }


@torch.no_grad()
def flops_by_part(detector: Detector, frame: Tensor) -> dict[str, int]:
    """Operations of each part for one frame [3, H, W], multiply and add apart.

    They are those of convolutions and matrix products; what sorts, suppresses, decodes and samples
    has none of them.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        detector.eval()([frame])
    root = type(detector).__name__
    found = {name: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    flops = {
        part: sum(found.get(f"{root}.{path}", 0) for path in MODULES.get(part, ()))
        for part in PARTS
    }
    flops["rest"] = counter.get_total_flops() - sum(flops.values())
    return flops


@dataclass(frozen=True)
class ClassifierCost:
    """Weights of the whole network and of its backbone; operations, multiply and add apart."""

    parameters: int
    backbone: int
    flops: int


def cost_table(
    configs: Mapping[str, ClassifierConfig], *, classes: int, image_size: int
) -> dict[str, ClassifierCost]:
    """What each network costs for so many classes and one image of so many px a side.

    Exits are counted in the parameters, and in the operations, as the whole network runs.
    """
    names = [str(at) for at in range(classes)]
    return {
        name: classifier_cost(build_classifier(config, names, image_size).eval())
        for name, config in configs.items()
    }


def classifier_cost(network: Classifier) -> ClassifierCost:
    """What a network costs for one image, with its exits.

    The operations of a backbone that runs as a whole are without them.
    """
    runs = without_exits(network) if network.backbone.whole else network
    return ClassifierCost(
        sum(weight.numel() for weight in network.parameters()),
        sum(weight.numel() for weight in network.backbone.parameters()),
        exit_flops(runs, network.image_size)[LAST],
    )


@dataclass(frozen=True)
class ExitCost:
    """What a network costs that ends at an exit, and what an image costs that stops there.

    `parameters` and `flops` are those of the network cut at the exit; `until` are the operations as
    far as it in the whole network, where the exits before it run, too.
    """

    parameters: int
    flops: int
    until: int


def exit_table(
    config: ClassifierConfig, *, classes: int, image_size: int
) -> tuple[dict[str, ExitCost], ExitCost]:
    """The cost of each exit and of the head (`last`), and that of the head without exits."""
    network = build_classifier(config, [str(at) for at in range(classes)], image_size).eval()
    until = exit_flops(network, image_size)
    alone = _exit_cost(without_exits(network))
    found = {name: _exit_cost(cut_at(network, name), until[name]) for name in network.exits}
    return {**found, LAST: _exit_cost(network)}, alone


def _exit_cost(network: Classifier, until: int | None = None) -> ExitCost:
    cost = classifier_cost(network)
    return ExitCost(cost.parameters, cost.flops, cost.flops if until is None else until)


def exits_markdown(name: str, table: Mapping[str, ExitCost], alone: ExitCost) -> str:
    """The table of a network's exits, with the shares of its head's operations without them."""
    lines = [
        ["network", "parameters", "MFLOPs", "of the head's", "stopping there", "of the head's"]
    ]

    def line(title: str, cost: ExitCost) -> list[str]:
        counts = (cost.flops, cost.until)
        shares = [text for n in counts for text in (f"{n / 1e6:.1f}", f"{n / alone.flops:.1%}")]
        return [title, f"{cost.parameters:,}", *shares]

    lines.append(line(f"{name}, no exits", alone))
    for at, cost in table.items():
        lines.append(line(f"{name}, {'whole' if at == LAST else 'cut at ' + at}", cost))
    return markdown_table(lines)


# Networks with exits on each stage on which there can be one, and it pays.
WITH_EXITS = {
    "resnet18, depthwise": ClassifierConfig(
        "resnet18", convolutions="depthwise", exits=["c2", "c3", "c4"]
    ),
    "vgg11, depthwise": ClassifierConfig("vgg11", convolutions="depthwise", exits=["c2", "c3"]),
    "shallow_x1": ClassifierConfig("shallow_x1", exits=["c2", "c3"]),
}


def compressed_family(name: str, groups: int = 8) -> dict[str, ClassifierConfig]:
    """A backbone with full, grouped and depthwise-separable convolutions, by what they are."""
    return {
        f"{name}, full": ClassifierConfig(name),
        f"{name}, {groups} groups": ClassifierConfig(name, convolutions="grouped", groups=groups),
        f"{name}, depthwise": ClassifierConfig(name, convolutions="depthwise"),
    }


def table_markdown(table: Mapping[str, ClassifierCost]) -> str:
    """The table with each network's share of the first one's weights and operations."""
    first = next(iter(table.values()))
    lines = [["network", "parameters", "of the first", "MFLOPs", "of the first"]]
    for name, cost in table.items():
        shares = [f"{cost.parameters / first.parameters:.1%}", f"{cost.flops / first.flops:.1%}"]
        operations = f"{cost.flops / 1e6:.1f}"
        lines.append([name, f"{cost.parameters:,}", shares[0], operations, shares[1]])
    return markdown_table(lines)
