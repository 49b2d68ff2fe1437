"""A data-set card as counting reads it: with the bodies that its classes are taken for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from detkd.data.card import Card, card_at
from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.shapes import named_shape
from detkd.errors import DataError


def card_with_bodies(path: Path) -> Card:
    """The card in a file, each shape by the name that counting has for it.

    Raises:
        DataError: it cannot be read, or names a shape that there is not.
    """
    card = card_at(path)
    try:
        shapes = {label: named_shape(shape, str(path)) for label, shape in card.shapes.items()}
    except CountingError as error:
        raise DataError(str(error)) from error
    return replace(card, shapes=shapes)
