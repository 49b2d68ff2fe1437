"""Frames without annotations, beside those that have some."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from detkd.coco_json import read_json, require_lists
from detkd.data.dataset import CocoDataset, Target, name_below
from detkd.data.formats.coco import image_root
from detkd.data.images import ImageError, images_below, measure
from detkd.errors import DataError


def names_of(source: Path) -> tuple[Path, list[str]]:
    """The image root of a folder or a COCO file, and the names of the images.

    Of a COCO file `images` is all that is looked at.

    Raises:
        DataError: there is no such source, or it is no such file, or names an image elsewhere.
    """
    if source.is_dir():
        return source, [path.relative_to(source).as_posix() for path in images_below(source)]
    if source.is_file():
        remedy = "name a folder of images, or a COCO file"
        document = require_lists(
            read_json(source, remedy), source, {"images": ("file_name",)}, remedy
        )
        root = image_root(source, document.get("info"))
        names = [name_below(image["file_name"], source) for image in document["images"]]
        return root, [name.as_posix() for name in names]
    raise DataError(f"{source}: no such folder or COCO file of frames without annotations.")


def refuse_tested(source: Path, test: Path) -> None:
    """Refuse frames to learn from that are images of `test`, a COCO file.

    Raises:
        DataError: some are.
    """
    places = [
        {(root / name).resolve() for name in names} for root, names in map(names_of, (source, test))
    ]
    if both := places[0] & places[1]:
        raise DataError(
            f"data.unlabelled: {source}: {len(both)} of its {len(places[0])} images are those of "
            f"{test}, by which the study judges; name a folder or a COCO file without them."
        )


def frames_of(source: Path, known: Iterable[CocoDataset]) -> tuple[dict[str, Any], Path, list[str]]:
    """A COCO document without boxes of the images in a folder or a COCO file, and their root.

    Images of the data sets `known` (for training, for validation) are left out: the first have
    annotations, and on the second one is judged. So are those that are not there or cannot be
    read, whose names come last.

    Raises:
        DataError: there is no such source, or nothing is left of it.
    """
    root, names = names_of(source)
    taken = {
        (each.image_root / image["file_name"]).resolve()
        for each in known
        for image in each.truth["images"]
    }
    images: list[dict[str, Any]] = []
    unread: list[str] = []
    for name in names:
        if (root / name).resolve() in taken:
            continue
        try:
            size = measure(root / name)
        except (ImageError, OSError):
            unread.append(name)
            continue
        entry = {"file_name": name, "width": size.width, "height": size.height}
        images.append({"id": len(images) + 1, **entry})
    if unread and not images:
        raise DataError(
            f"{source}: none of its {len(unread)} images beside those for training and validation "
            f"can be read; the first is {root / unread[0]}. Put them there, or name their folder."
        )
    if not images:
        raise DataError(
            f"{source}: holds no image beside those for training and validation; "
            "leave data.unlabelled out."
        )
    return {"images": images, "annotations": [], "categories": []}, root, unread


class WithFrames(Dataset[tuple[Tensor, Target]]):
    """The images of one data set, then the frames of another, whose targets say `unlabelled`."""

    def __init__(self, labelled: CocoDataset, frames: CocoDataset) -> None:
        self.labelled, self.frames = labelled, frames
        self.levels = labelled.levels
        frames.levels = labelled.levels or frames.levels  # 16 bits are mapped alike

    def __len__(self) -> int:
        return len(self.labelled) + len(self.frames)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Target]:
        index, draw = key if isinstance(key, tuple) else (key, None)
        first = len(self.labelled)
        if index < first:
            return self.labelled[key]
        at = index - first
        image, target = self.frames[at if draw is None else (at, draw)]
        return image, {**target, "unlabelled": torch.tensor(True)}
