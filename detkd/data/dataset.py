"""A COCO data set as torchvision's detectors want it: decoded once, resized once, cached."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detkd.coco_json import read_json, require_lists
from detkd.data.augment import Augment
from detkd.data.formats.coco import image_root
from detkd.data.images import leaves_root
from detkd.data.mixing import View, overlay, paste_cells
from detkd.errors import ConfigError, DataError
from detkd.files import digest_of_tree, write_with
from detkd.pixels import Levels, eight_bit, levels_of, page_of, read_pixels

# One thread a process: the loader's workers and torch's own threads share the cores.
cv2.setNumThreads(0)

Target = dict[str, Tensor]


class UnknownLevelsError(DataError):
    """An image of 16 bits, and nobody knows what becomes 0 and 255 of them."""


def load_image(
    path: Path, image_size: int, levels: Levels | None = None, *, strict: bool = False
) -> tuple[np.ndarray, tuple[int, int]]:
    """RGB image [H, W, 3] uint8 whose longest side is `image_size`, and the file's (height, width).

    The displayed frame is used (EXIF orientation is applied); grey becomes RGB, 16 bit is mapped
    between the data set's `levels`, or divided by 256, which `strict` refuses. `stack.tif#page=2`
    is the second page of a stack. Training, judging and prediction all come through here.

    Raises:
        DataError: the file cannot be decoded.
        UnknownLevelsError: it is of 16 bits, without levels.
    """
    image = read_pixels(path)
    if image is None:
        raise DataError(f"{path}: cannot be read as an image; replace it, or leave it out.")
    if strict and levels is None and image.dtype != np.uint8:
        raise UnknownLevelsError(
            f"{path}: is of 16 bits, and what becomes 0 and 255 of them is not known, for the "
            "images that were learned from are of 8; make it one of 8 bits as they were made, or "
            "train with images of 16."
        )
    image = eight_bit(image, levels)
    height, width = image.shape[:2]
    return fitted(image, image_size), (height, width)


def fitted(image: np.ndarray, image_size: int) -> np.ndarray:
    """The image [H, W, 3] with `image_size` px as its longest side."""
    height, width = image.shape[:2]
    scale = image_size / max(height, width)
    if scale == 1:
        return image
    rows, columns = fitted_size(height, width, image_size)
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (columns, rows), interpolation=shrinks)


def fitted_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """Height and width of an image whose longest side becomes `image_size` px."""
    scale = image_size / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


RELIED_ON = {
    "images": ("id", "file_name", "width", "height"),
    "annotations": ("id", "image_id", "category_id", "bbox"),
    "categories": ("id", "name"),
}


def read_coco(path: str | Path) -> dict[str, Any]:
    """A COCO detection file, checked as far as training and judging rely on it.

    Raises:
        DataError: no such file, not JSON, or not a COCO detection file.
    """
    remedy = "make it with 'detkd convert' and 'detkd split'"
    document = require_lists(read_json(path, remedy), path, RELIED_ON, remedy)
    if not document["categories"]:
        raise DataError(f"{path}: names no categories; convert the data set again.")
    return document


def name_below(said: object, path: str | Path) -> PurePosixPath:
    """The name of an image in the COCO file `path`, which lies below the image root.

    Raises:
        DataError: it would lie elsewhere.
    """
    name = PurePosixPath(str(said))
    if leaves_root(name) or "\\" in str(name) or "\0" in str(name):
        raise DataError(
            f"{path}: image name {str(name)!r} leaves the image root; make it relative to that, or "
            "convert the data set again."
        )
    return name


TOLD_OF_AN_IMAGE = ("id", "file_name", "width", "height")


def digest_of_coco(document: Mapping[str, Any]) -> str:
    """Digest of a COCO file's images, boxes and classes.

    Of the images only what decides what is learned and judged: which sample each is of may be added
    to them later.
    """
    images = [[image.get(key) for key in TOLD_OF_AN_IMAGE] for image in document["images"]]
    return digest_of_tree([images, document["annotations"], document["categories"]])


def digest_of_sides(*sides: str | Path) -> str | None:
    """Digest of what COCO files hold, as `digest_of_coco`; None where one is not there."""
    if not all(Path(side).is_file() for side in sides):
        return None
    return digest_of_tree([digest_of_coco(read_coco(side)) for side in sides])


class CocoDataset(Dataset[tuple[Tensor, Target]]):
    """Images and targets of a COCO file.

    A key `(index, draw)` gives the image augmented by the seed `draw`, an `index` alone the image
    as it is. Boxes are xyxy in px of the image that is given; crowds are no training targets; an
    image without boxes is a negative.

    Args:
        annotations: COCO file.
        images: folder of the images; without it the COCO file says where they are.
        image_size: longest side in px after resizing.
        augment: name of an augmentation.
        cache: memory, disk or none: where decoded and resized images are kept.
        cache_dir: folder of the disk cache (DETKD_CACHE, or ~/.cache/detkd).
        skip_missing: leave out images that are not on disk.
        document: what the file would hold, where there is none.
        copy_paste, overlay: chances that an augmented image is mixed with another one.
        mark_views: targets of augmented images have `view`, by which one is known when it comes
            again (see `mark_of`).

    Raises:
        DataError: the file cannot be used, or images are not there.
    """

    def __init__(
        self,
        annotations: str | Path,
        *,
        images: str | Path | None = None,
        image_size: int,
        augment: str = "none",
        cache: str = "memory",
        cache_dir: str | Path | None = None,
        skip_missing: bool = False,
        document: dict[str, Any] | None = None,
        copy_paste: float = 0.0,
        overlay: float = 0.0,
        mark_views: bool = False,
    ) -> None:
        for name, chance in (("copy_paste", copy_paste), ("overlay", overlay)):
            if not 0 <= chance <= 1:
                raise ConfigError(f"data.{name}: {chance} is no chance from 0 to 1.")
        self.copy_paste, self.overlay, self.mark_views = copy_paste, overlay, mark_views
        self.path = Path(annotations)
        self.truth = read_coco(self.path) if document is None else document
        self.image_root = Path(images) if images else image_root(self.path, self.truth.get("info"))
        self.levels = levels_of(self.truth.get("info"))
        self.image_size, self.augment, self.cache = image_size, Augment(augment), cache
        self.cache_dir = Path(
            cache_dir or os.environ.get("DETKD_CACHE") or Path.home() / ".cache" / "detkd"
        )
        self._kept: dict[int, tuple[np.ndarray, tuple[int, int]]] = {}
        self._find_images(skip_missing)
        categories = self.truth["categories"]
        self.classes = tuple(category["name"] for category in categories)
        self.category_ids = tuple(category["id"] for category in categories)
        self._boxes, self._labels = self._read_boxes()

    def _find_images(self, skip_missing: bool) -> None:
        missing = []
        for image in self.truth["images"]:
            name = name_below(image["file_name"], self.path)
            if not page_of(self.image_root / name)[0].is_file():
                missing.append(image)
        if missing and not skip_missing:
            first = ", ".join(image["file_name"] for image in missing[:3])
            raise DataError(
                f"{len(missing)} of {len(self.truth['images'])} images are not in "
                f"{self.image_root}: {first}{', ...' if len(missing) > 3 else ''}. Convert again, "
                "name their folder with --data.images, or leave them out with "
                "--data.skip_missing true."
            )
        gone = {image["id"] for image in missing}
        if gone:
            self.truth = {
                **self.truth,
                "images": [image for image in self.truth["images"] if image["id"] not in gone],
                "annotations": [
                    box for box in self.truth["annotations"] if box["image_id"] not in gone
                ],
            }
        if not self.truth["images"]:
            raise DataError(f"{self.path}: holds no images; convert or split again.")

    def _read_boxes(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Boxes [N, 4] xywh in px of the file, and labels from 1 on, of each image."""
        label_of = {category: at for at, category in enumerate(self.category_ids, start=1)}
        rows: dict[Any, list[list[float]]] = {image["id"]: [] for image in self.truth["images"]}
        for at, box in enumerate(self.truth["annotations"]):
            if box["image_id"] not in rows or box["category_id"] not in label_of:
                raise DataError(
                    f"{self.path}: annotations[{at}] names an image or category that does not "
                    "exist; convert the data set again."
                )
            values = box["bbox"]
            if len(values) != 4 or not np.isfinite(np.asarray(values, dtype=float)).all():
                raise DataError(
                    f"{self.path}: annotations[{at}] has the box {values}; four finite numbers "
                    "are needed; convert the data set again."
                )
            if not box.get("iscrowd") and values[2] > 0 and values[3] > 0:
                rows[box["image_id"]].append([*values, label_of[box["category_id"]]])
        tables = [
            np.asarray(rows[image["id"]], dtype=np.float32).reshape(-1, 5)
            for image in self.truth["images"]
        ]
        return [t[:, :4] for t in tables], [t[:, 4].astype(np.int64) for t in tables]

    def __len__(self) -> int:
        return len(self.truth["images"])

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Target]:
        index, draw = key if isinstance(key, tuple) else (key, None)
        record = self.truth["images"][index]
        (image, boxes, labels), size = self._view(index)
        if draw is not None:
            image, boxes, labels = self._mixed((image, boxes, labels), draw)
            image, boxes, rows = self.augment(image, boxes, draw)
            labels = labels[rows]
        solid = ((boxes[:, 2] - boxes[:, 0]) > 0.1) & ((boxes[:, 3] - boxes[:, 1]) > 0.1)
        xyxy = torch.from_numpy(boxes[solid])
        target = {
            "boxes": xyxy,
            "labels": torch.from_numpy(labels[solid]),
            "image_id": torch.tensor([record["id"]]),
            "area": (xyxy[:, 2] - xyxy[:, 0]) * (xyxy[:, 3] - xyxy[:, 1]),
            "iscrowd": torch.zeros(len(xyxy), dtype=torch.int64),
            "orig_size": torch.tensor(size),
        }
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if draw is not None and self.mark_views:
            target["view"] = mark_of(pixels)
        return pixels.float().div_(255), target

    def _view(self, index: int) -> tuple[View, tuple[int, int]]:
        """The resized image, its boxes [N, 4] xyxy in it and labels; height and width on disk."""
        image, (height, width) = self._load(index)
        boxes, labels = self._boxes[index].copy(), self._labels[index]
        boxes[:, 2:] += boxes[:, :2]
        boxes *= np.array([image.shape[1] / width, image.shape[0] / height] * 2, np.float32)
        boxes[:, 0::2] = boxes[:, 0::2].clip(0, image.shape[1])
        boxes[:, 1::2] = boxes[:, 1::2].clip(0, image.shape[0])
        return (image, boxes, labels), (height, width)

    def _mixed(self, view: View, draw: int) -> View:
        """The image with cells of another one, or with another one over it, as chance will."""
        if not (self.copy_paste or self.overlay):
            return view
        random = np.random.default_rng([draw, 1])
        chances = random.random(2)
        if chances[0] < self.copy_paste:
            donor, _ = self._view(int(random.integers(len(self))))
            view = paste_cells(view, donor, random)
        if chances[1] < self.overlay:
            other, _ = self._view(int(random.integers(len(self))))
            view = overlay(view, other, random)
        return view

    def box_sizes(self) -> np.ndarray:
        """Widths and heights [N, 2] of all boxes, in px of the resized images."""
        scaled = [
            boxes[:, 2:] * (self.image_size / max(image["width"], image["height"]))
            for boxes, image in zip(self._boxes, self.truth["images"], strict=True)
        ]
        return np.concatenate(scaled)

    def _load(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        if index in self._kept:
            return self._kept[index]
        path = self.image_root / self.truth["images"][index]["file_name"]
        loaded = self._from_disk(path) if self.cache == "disk" else self._from_file(path)
        if self.cache == "memory":
            self._kept[index] = loaded
        return loaded

    def _from_file(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        return load_image(path, self.image_size, self.levels)

    def _from_disk(self, path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        """The resized image from the disk cache, which is filled on the way."""
        state = page_of(path)[0].stat()
        key = f"{path.resolve()}|{state.st_size}|{state.st_mtime_ns}|{self.image_size}"
        key += f"|{self.levels}" if self.levels else ""
        kept = self.cache_dir / f"{hashlib.blake2b(key.encode(), digest_size=16).hexdigest()}.npz"
        damaged = (OSError, EOFError, ValueError, KeyError, BadZipFile)  # then it is made anew
        with suppress(*damaged), np.load(kept, allow_pickle=False) as stored:
            return stored["image"], tuple(stored["size"].tolist())
        image, size = self._from_file(path)
        # Several workers may write the same image: each its own file, the last rename wins. A full
        # disk ends no training.
        with suppress(OSError):
            write_with(
                kept, lambda stream: np.savez(stream, image=image, size=np.array(size)), sync=False
            )
        return image, size


def mark_of(pixels: Tensor) -> Tensor:
    """A digest [2] of the bytes of an image [3, H, W] uint8.

    Of bytes, before they become floats, it is a quarter of the work, and done where images are
    loaded.
    """
    digest = hashlib.blake2b(pixels.contiguous().numpy().data, digest_size=16).digest()
    return torch.from_numpy(np.frombuffer(digest, np.int64).copy())


def collate(batch: list[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
    """A batch as torchvision's detectors take it: images and targets as lists."""
    return [image for image, _ in batch], [target for _, target in batch]


def coco_results(
    image: Tensor,
    target: Target,
    found: dict[str, Tensor],
    category_ids: tuple[int, ...],
) -> list[dict[str, Any]]:
    """COCO results of one image [3, H, W], boxes in px of its file."""
    height, width = target["orig_size"].tolist()
    scale = torch.tensor([width / image.shape[-1], height / image.shape[-2]]).repeat(2)
    boxes = found["boxes"].float().cpu() * scale
    boxes[:, 2:] -= boxes[:, :2]
    image_id = int(target["image_id"])
    return [
        {"image_id": image_id, "category_id": category_ids[label - 1], "bbox": box, "score": score}
        for box, label, score in zip(
            boxes.tolist(),
            found["labels"].tolist(),
            found["scores"].float().tolist(),
            strict=True,
        )
    ]
