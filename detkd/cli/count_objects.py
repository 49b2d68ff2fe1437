"""Cells per litre from what a detector has found; what it does stands in detkd/deploy/counting.

That also works alone, beside an exported model. Here, `--shapes` takes data-set cards as well.
"""

from __future__ import annotations

from pathlib import Path

from detkd.deploy.card_bodies import card_with_bodies
from detkd.deploy.counting.bodies import Body
from detkd.deploy.counting.command import count
from detkd.deploy.counting.errors import CountingError
from detkd.deploy.counting.options import parse
from detkd.errors import DataError


def main(argv: list[str]) -> int:
    try:
        options = parse(argv, "detkd count")
        card = options.shapes is not None and options.shapes.suffix.lower() in (".yaml", ".yml")
        count(options, shapes_of_card(options.shapes) if card else None)
    except CountingError as error:
        raise DataError(str(error)) from error
    return 0


def shapes_of_card(path: Path) -> dict[str, Body]:
    """Shapes of the classes of a data-set card.

    Raises:
        DataError: it cannot be read, or names a shape that there is not.
    """
    return {
        label: Body(shape, None, path.name)
        for label, shape in card_with_bodies(path).shapes.items()
    }
