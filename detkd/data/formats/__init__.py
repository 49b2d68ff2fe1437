"""Annotation formats, one file each. To add one, write its file and list it here.

A format has `recognise(path)`, `read(path, ...) -> DataSet` and, where it can hold the records,
`write`.
"""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

from detkd.data.formats import coco, voc, yolo
from detkd.errors import DataError

# In the order in which they are tried on a tree of unknown kind.
FORMATS: dict[str, ModuleType] = {"coco": coco, "voc": voc, "yolo": yolo}


def guess(path: Path) -> str:
    """The format of `path`.

    Raises:
        DataError: nothing there, or nothing that is known.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    for name, module in FORMATS.items():
        if module.recognise(path):
            return name
    raise DataError(
        f"{path}: holds no annotations of a known format ({', '.join(FORMATS)}); "
        "name it with --from, or name the folder above."
    )
