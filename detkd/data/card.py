"""Data-set cards (datasets/*.yaml): what a data set's classes are, and which bodies they have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml


@dataclass(frozen=True)
class Card:
    """Names of the classes in their order; of some, the geometric shape that gives their volume."""

    classes: list[str]
    shapes: Mapping[str, str] = field(default_factory=dict)


def read_card(text: str) -> Card:
    """What the text of a card says of its classes, which are names or mappings with a name.

    Raises:
        ValueError, yaml.YAMLError: it is no card.
    """
    card = yaml.safe_load(text)
    classes = card.get("classes") if isinstance(card, dict) else None
    if not isinstance(classes, list):
        raise ValueError("no list 'classes' of names in it")
    names: list[Any] = [e.get("name") if isinstance(e, dict) else e for e in classes]
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("no list 'classes' of names in it")
    shapes = card.get("shapes", {})
    if not isinstance(shapes, dict) or not all(isinstance(each, str) for each in shapes.values()):
        raise ValueError("'shapes' does not name one shape a class")
    for name in shapes:
        if name not in names:
            raise ValueError(f"'shapes' names '{name}', which is no class of it")
    return Card(names, shapes)
