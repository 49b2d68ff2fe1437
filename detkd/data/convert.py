"""From any format to any format, in one go or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from detkd.data.check import Examined
from detkd.data.formats import coco, voc, yolo
from detkd.errors import DataError

IMAGE_FOLDERS = {"voc": "JPEGImages", "yolo": "images"}


def write_dataset(examined: Examined, destination: Path, target: str) -> list[str]:
    """Write a data set; what the target format cannot hold is returned by name.

    COCO replaces an existing file as a whole; VOC and YOLO make a new folder with the images in
    it, complete or not there.

    Raises:
        DataError: the destination is an existing folder, or there is nothing to write.
    """
    if not examined.data.images:
        raise DataError(
            f"{examined.root}: no image with a sound annotation is left, so nothing was written; "
            "see the report."
        )
    if target == "coco":
        if destination.is_dir():
            raise DataError(f"{destination}: is a folder; name a file that ends in .json.")
        coco.write(examined.data, destination, examined.root, conversion_record(examined))
        return []
    if destination.exists():
        raise DataError(f"{destination}: exists already; name a new folder, or remove it.")
    destination.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=destination.parent, prefix=f".{destination.name}."))
    try:
        for image in examined.data.images:
            copy = building / IMAGE_FOLDERS[target] / image.file
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(examined.root / image.file, copy)
        lost = {"voc": voc, "yolo": yolo}[target].write(examined.data, building)
        building.chmod(0o755)
        building.rename(destination)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return lost


def conversion_record(examined: Examined) -> dict[str, Any]:
    """What a COCO file says of its making, besides the rule and the classes."""
    actions = Counter(problem.action for problem in examined.problems)
    return {
        "dropped": {
            "boxes": actions["dropped box"],
            "images": actions["dropped image"],
        },
        "mended": actions["mended"],
        "unlabelled": examined.unlabelled,
    }
