"""Data-set cards (datasets/*.yaml): what a data set's classes are, and which bodies they have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from detkd.errors import DataError


@dataclass(frozen=True)
class Card:
    """Names of the classes in their order; of some, the geometric shape that gives their volume.

    `title`, `licence`, `address` and `citation` are as the card says, or empty.
    """

    classes: list[str]
    shapes: Mapping[str, str] = field(default_factory=dict)
    title: str = ""
    licence: str = ""
    address: str = ""
    citation: str = ""
    known_defects: Sequence[str] = ()


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
    keys = ("title", "licence", "address", "citation")
    said = {key: str(card.get(key) or "") for key in keys}
    defects = card.get("known_defects") or []
    if not isinstance(defects, list):
        raise ValueError("'known_defects' is no list")
    return Card(names, shapes, known_defects=tuple(map(str, defects)), **said)


def card_at(path: Path) -> Card:
    """The card in a file.

    Raises:
        DataError: it cannot be read, or is no card.
    """
    try:
        return read_card(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())
        raise DataError(f"{path}: cannot be read as a data-set card ({why}).") from error
