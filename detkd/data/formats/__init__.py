"""Annotation formats, one file each. To add one, write its file and list it here.

A format has `recognise(path)`, `read(path, ...) -> DataSet` and, where it can hold the records,
`write`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from detkd.data.formats import coco, voc, yolo
from detkd.errors import DataError

# In the order in which they are tried on a tree of unknown kind.
FORMATS = {"coco": coco, "voc": voc, "yolo": yolo}
RECOGNISE: dict[str, Callable[[Path], bool]] = {
    name: module.recognise for name, module in FORMATS.items()
}


def guess(path: Path) -> str:
    """The format of `path`.

    Raises:
        DataError: nothing there, or nothing that is known.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    for name, recognise in RECOGNISE.items():
        if recognise(path):
            return name
    raise DataError(
        f"{path}: holds no annotations of a known format ({', '.join(FORMATS)}); "
        "name it with --from, or name the folder above."
    )
