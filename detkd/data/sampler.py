"""Which images make a batch: a function of seed and epoch alone, whatever the processes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of keys `(index, draw)`; `draw` seeds the augmentation of that image.

    With several processes, their k-th batches together are what a single process with a batch
    `world_size` times as large gets as its k-th. The images left over at the end of an epoch
    are dropped, unless they are all there is.

    Args:
        images: of the data set that have annotations; they come first in it.
        batch_size: such images a batch and process.
        frames: of the data set without annotations, behind the others.
        frames_a_batch: of these in each batch, besides; all of them in turn, over epochs.
        views: draws of an image that there are, in turn over the epochs and whatever the seed; 0
            for a new one each epoch.
        weights: how likely each image is drawn, with replacement, summing to 1; without them each
            is drawn once an epoch.
    """

    def __init__(
        self,
        images: int,
        batch_size: int,
        *,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        frames: int = 0,
        frames_a_batch: int = 0,
        views: int = 0,
        weights: np.ndarray | None = None,
    ) -> None:
        self.views, self.weights = views, weights
        self.frames, self.frames_a_batch = frames, frames_a_batch if frames else 0
        self.images, self.seed = images, seed
        self.batch_size = max(1, min(batch_size, images // world_size))
        self.rank, self.world_size = rank, world_size
        self.epoch = self.first = 0

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Draw epoch number `epoch` next, from batch number `first` on."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return max(1, self.images // (self.batch_size * self.world_size))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = self._keys()
        for batch in range(self.first, len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            yield keys[start : start + self.batch_size] + self._frames(batch)

    def _keys(self) -> list[tuple[int, int]]:
        """The annotated images of the epoch in order; one that comes twice is drawn anew."""
        random = np.random.default_rng([self.seed, self.epoch])
        if self.weights is None:
            return [
                (index, self._draw(index)) for index in random.permutation(self.images).tolist()
            ]
        seen = Counter[int]()
        keys = []
        for index in random.choice(self.images, size=self.images, p=self.weights).tolist():
            keys.append((index, self._draw(index, seen[index])))
            seen[index] += 1
        return keys

    def _frames(self, batch: int) -> list[tuple[int, int]]:
        """The next frames without annotations; each is drawn once before any is drawn again."""
        if not self.frames_a_batch:
            return []
        epoch = self.epoch * len(self) * self.world_size  # of what comes first in it
        turn = epoch + batch * self.world_size + self.rank
        places = range(turn * self.frames_a_batch, (turn + 1) * self.frames_a_batch)
        orders = {
            each: np.random.default_rng([self.seed, each, 1]).permutation(self.frames)
            for each in {place // self.frames for place in places}
        }
        begun = epoch * self.frames_a_batch // self.frames
        keys = []
        for round_, at in (divmod(place, self.frames) for place in places):
            index = self.images + int(orders[round_][at])
            keys.append((index, self._draw(index, round_ - begun)))
        return keys

    def _draw(self, index: int, again: int = 0) -> int:
        """The draw of an image in this epoch; another one where it comes `again` in it."""
        turn = f"{self.seed}/{self.epoch}" + (f"/{again}" if again else "")
        if self.views:
            turn = f"view {(self.epoch + again) % self.views}"
        key = f"{turn}/{index}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
