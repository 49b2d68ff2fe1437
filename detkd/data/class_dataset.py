"""Labelled images as a classifier wants them: square, decoded once, augmented by a seed."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from detkd.data.augment import Augment
from detkd.data.dataset import Target, UnknownLevelsError, load_image, mark_of
from detkd.data.labelled_images import LabelledSet, groups_of
from detkd.errors import DataError
from detkd.pixels import Levels

SHOWN = 3  # files that a refusal names


def square(image: np.ndarray) -> np.ndarray:
    """The image [H, W, 3] in the middle of a square of the colour of its border (median)."""
    height, width = image.shape[:2]
    if height == width:
        return image
    side = max(height, width)
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    out = np.empty((side, side, 3), np.uint8)
    out[:] = np.median(border, axis=0).astype(np.uint8)
    top, left = (side - height) // 2, (side - width) // 2
    out[top : top + height, left : left + width] = image
    return out


class ClassDataset(Dataset[tuple[Tensor, Target]]):
    """Images [3, S, S] in 0..1 and targets with `label`, and `image_id`: its place in the set.

    A key `(index, draw)` gives the image augmented by the seed `draw`, and the target says that
    `draw`; an `index` alone gives the image as it is. The aspect ratio is kept: a crop stands on
    a square of the colour of its border. Where views are marked, `view` [2] is a digest of the
    pixels (see `mark_of`).

    Args:
        data: the labelled images.
        image_size: S in px.
        augment: name of an augmentation in `detkd/data/augment.py`.
        randaugment: operations of RandAugment (Cubuk et al., 2020) on top; 0 for none.
        cache: keep decoded images in memory, or not (none).
        mark_views: add the digest of the pixels, by which a view is known when it comes again.
        levels: what becomes 0 and 255 in 16-bit images; without them, there may be none.
        division: digest of the sides of which this is one.

    Raises:
        DataError: there are no images, or some cannot be read.
    """

    def __init__(
        self,
        data: LabelledSet,
        *,
        image_size: int,
        augment: str = "none",
        randaugment: int = 0,
        cache: str = "memory",
        mark_views: bool = False,
        levels: Levels | None = None,
        division: str | None = None,
    ) -> None:
        if not data.images:
            raise DataError(f"{data.source}: no image is left of it; give other ratios.")
        self.data, self.classes, self.image_size = data, data.classes, image_size
        self.augment, self.randaugment, self.cache = Augment(augment), randaugment, cache
        self.mark_views, self.levels, self.division = mark_views, levels, division
        number = {name: at for at, name in enumerate(data.classes)}
        self.labels = np.array([number[image.label] for image in data.images], dtype=np.int64)
        self._kept: dict[int, np.ndarray] = {}

    @cached_property
    def groups(self) -> list[str]:
        """The group of each image; one of its own content, where none is named."""
        return [group.lstrip("\0") for group in groups_of(self.data)]

    def check_images(self) -> None:
        """Decode every image once, so that a broken one is told before anything begins.

        Raises:
            DataError: with the files that cannot be read.
        """
        broken = []
        for at in range(len(self)):
            try:
                self._load(at)
            except UnknownLevelsError:
                raise
            except DataError:
                broken.append(self.data.images[at].file)
        if broken:
            named = ", ".join(broken[:SHOWN]) + (", ..." if len(broken) > SHOWN else "")
            raise DataError(
                f"{self.data.source}: {len(broken)} of {len(self)} images cannot be read: {named}; "
                "replace them, or take them out."
            )

    def __len__(self) -> int:
        return len(self.data.images)

    def __getitem__(self, key: int | tuple[int, int]) -> tuple[Tensor, Target]:
        index, draw = key if isinstance(key, tuple) else (key, None)
        image = self._load(index)
        target = {"label": torch.tensor(self.labels[index]), "image_id": torch.tensor([index])}
        if draw is not None:
            image, _, _ = self.augment(image, np.zeros((0, 4), np.float32), draw)
            target["draw"] = torch.tensor(draw)
        pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
        if draw is not None and self.randaugment:
            pixels = _randaugment(pixels, self.randaugment, draw)
        if draw is not None and self.mark_views:
            target["view"] = mark_of(pixels)
        return pixels.float().div_(255), target

    def _load(self, index: int) -> np.ndarray:
        if index in self._kept:
            return self._kept[index]
        path = self.data.root / self.data.images[index].file
        image, _ = load_image(path, self.image_size, self.levels, strict=True)
        image = square(image)
        if self.cache == "memory":
            self._kept[index] = image
        return image


def _randaugment(pixels: Tensor, operations: int, seed: int) -> Tensor:
    """torchvision's RandAugment, which draws from torch's generator: it is put back after it."""
    from torchvision.transforms import v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return v2.RandAugment(operations)(pixels)


def class_weights(labels: np.ndarray, classes: int, balance: float) -> np.ndarray | None:
    """How likely each image is drawn; None where all are alike.

        p(image of class c) ∝ n_c^(−balance)

    0 draws images alike, 1 draws classes alike; between them the long tail is lifted in part.
    """
    if not balance:
        return None
    counts = np.bincount(labels, minlength=classes).clip(1)
    weights = counts[labels].astype(float) ** -balance
    return weights / weights.sum()


def drawn_counts(counts: Sequence[int], balance: float) -> list[float]:
    """What the images of each class are in proportion to when they are drawn: n_c^(1 − balance)."""
    return [float(count) ** (1 - balance) if count else 0.0 for count in counts]


class Mixing:
    """Collates a batch; with mixup or cutmix, images are mixed and targets get `probabilities`.

    Mixup (Zhang et al., 2018) lays the images of a batch over their neighbours, λ ~ Beta(α, α);
    cutmix (Yun et al., 2019) puts a rectangle of area 1 − λ of the neighbour into them. Where both
    are on, chance takes one. What is drawn depends on the draws of the batch alone.

    Args:
        classes: how many there are.
        mixup, cutmix: their α; 0 for none.
    """

    def __init__(self, classes: int, mixup: float = 0.0, cutmix: float = 0.0) -> None:
        self.classes, self.mixup, self.cutmix = classes, mixup, cutmix

    def __call__(self, batch: Sequence[tuple[Tensor, Target]]) -> tuple[list[Tensor], list[Target]]:
        images, targets = [image for image, _ in batch], [target for _, target in batch]
        if not (self.mixup or self.cutmix) or "draw" not in targets[0]:
            return images, targets
        from torchvision.transforms import v2

        ways: list[torch.nn.Module] = []
        if self.mixup:
            ways.append(v2.MixUp(alpha=self.mixup, num_classes=self.classes))
        if self.cutmix:
            ways.append(v2.CutMix(alpha=self.cutmix, num_classes=self.classes))
        labels = torch.stack([target["label"] for target in targets])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(sum(int(target["draw"]) for target in targets))
            way = ways[int(torch.randint(len(ways), ()))]
            mixed, probabilities = way(torch.stack(images), labels)
        soft = [{**t, "probabilities": p} for t, p in zip(targets, probabilities, strict=True)]
        for target in soft:
            target.pop("view", None)  # these pixels are others
        return list(mixed), soft
