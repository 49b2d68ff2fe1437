"""Which images make a batch: a function of seed and epoch alone, whatever the processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler


class EpochBatches(Sampler[list[tuple[int, int]]]):
    """Batches of keys `(index, draw)`; `draw` seeds the augmentation of that image.

    With several processes, their k-th batches together are what a single process with a batch
    `world_size` times as large gets as its k-th. The images left over at the end of an epoch
    are dropped, unless they are all there is.
    """

    def __init__(
        self, images: int, batch_size: int, *, seed: int, rank: int = 0, world_size: int = 1
    ) -> None:
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
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.images)
        for batch in range(self.first, len(self)):
            start = (batch * self.world_size + self.rank) * self.batch_size
            chosen = order[start : start + self.batch_size].tolist()
            yield [(index, self._draw(index)) for index in chosen]

    def _draw(self, index: int) -> int:
        key = f"{self.seed}/{self.epoch}/{index}".encode()
        return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "little")
