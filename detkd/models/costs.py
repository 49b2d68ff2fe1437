"""Parameters and operations of classifiers, counted by running them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from detkd.config import ClassifierConfig
from detkd.models.classifier import build_classifier
from detkd.models.early_exit import LAST, exit_flops


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
    table = {}
    for name, config in configs.items():
        network = build_classifier(config, [str(at) for at in range(classes)], image_size).eval()
        table[name] = ClassifierCost(
            sum(weight.numel() for weight in network.parameters()),
            sum(weight.numel() for weight in network.backbone.parameters()),
            exit_flops(network, image_size)[LAST],
        )
    return table


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
    lines = [
        "| network | parameters | of the first | MFLOPs | of the first |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, cost in table.items():
        shares = (cost.parameters / first.parameters, cost.flops / first.flops)
        lines.append(
            f"| {name} | {cost.parameters:,} | {shares[0]:.1%} | {cost.flops / 1e6:.1f} | "
            f"{shares[1]:.1%} |"
        )
    return "\n".join(lines) + "\n"
