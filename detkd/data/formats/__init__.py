"""Annotation formats, one file each. To add one, write its file and list it here.

A format has `recognise(path)`, the number of its annotations that it sees there; `read(path, ...)
-> DataSet`; and, where it can hold the records, `write`. Where one document holds many images,
`path` may be that document, and the tree is its folder.
"""

from __future__ import annotations

from pathlib import Path

from detkd.data.formats import (
    class_folders,
    coco,
    csv_table,
    cvat,
    label_studio,
    labelme,
    voc,
    yolo,
)
from detkd.data.images import files_below
from detkd.errors import DataError

FORMATS = {
    "coco": coco,
    "voc": voc,
    "yolo": yolo,
    "labelme": labelme,
    "cvat": cvat,
    "label_studio": label_studio,
    "csv": csv_table,
    "folders": class_folders,
}
OF_ONE_FILE = ("coco", "cvat", "label_studio", "csv")  # formats whose source may be a file


def guess(path: Path) -> str:
    """The format that most annotations of `path` are in.

    Raises:
        DataError: nothing there, or nothing that is known.
    """
    return next(iter(recognised(path)))


def recognised(path: Path) -> dict[str, int]:
    """How many annotations of each format are seen in `path`, the most first.

    Raises:
        DataError: nothing there, or nothing that is known.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder.")
    counts = {name: module.recognise(path) for name, module in FORMATS.items()}
    seen = {name: count for name, count in counts.items() if count}
    if seen:
        return dict(sorted(seen.items(), key=lambda item: -item[1]))
    lists = list(files_below(path, ".json"))
    hint = f"for COCO, name the file, such as {lists[0]}" if lists else "name it with --from"
    raise DataError(
        f"{path}: holds no annotations of a known format ({', '.join(FORMATS)}); {hint}."
    )
