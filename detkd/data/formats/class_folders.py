"""Class folders, as sets for classification have them: CLASS/image.png, a box of the whole frame.

Never guessed: folders may as well be called by day or by station.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from detkd.data.images import images_below
from detkd.data.records import BoxRecord, DataSet, ImageRecord, Rule, clean, relative
from detkd.errors import DataError

RULE = Rule("class-folders", "[0, 0, W, H]")


def recognise(path: Path) -> int:
    """0: see above."""
    return 0


def read(root: Path) -> DataSet:
    """Each image with one box of its whole frame, of the class that its folder is called by.

    Raises:
        DataError: no image lies in a folder.
    """
    images = [path for path in images_below(root) if path.parent != root]
    if not images:
        raise DataError(f"{root}: holds no folders of images; name the folder that has them.")
    return DataSet("folders", RULE, [], _records(root, images), [])


def _records(root: Path, images: list[Path]) -> Iterator[ImageRecord]:
    for image in images:
        box = BoxRecord(clean(image.parent.name), 0, 0, 1, 1)
        yield ImageRecord(relative(image, root), 0, 0, boxes=(box,), fractions=True)
