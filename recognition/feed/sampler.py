"""Which images make up which batch: the same global batches for every number of ranks."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from recognition.draws.permutation import IntArray
from recognition.errors import ConfigError
from recognition.feed.orders import ImageOrder, Order


class GlobalBatchSampler:
    """Yield this rank's image indices [batch_size], batch after batch, for one epoch.

    The order of an epoch is a pure function of (seed, epoch). Global batch k is a fixed list of
    N = batch_size * world_size images of which rank r takes the slice [r * batch_size, (r + 1) * batch_size), so runs
    with equal N see equal batches, whatever their number of ranks. The images after the last whole global batch are
    left out; which ones they are changes every epoch. `order` is a uniform shuffle unless another is given.
    Raises ConfigError when there are fewer images than one global batch.
    """

    def __init__(
        self,
        num_images: int,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        epoch: int = 0,
        start_step: int = 0,
        order: Order | None = None,
    ) -> None:
        self.num_images = num_images
        self.order = order or ImageOrder(num_images, seed)
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.global_batch = batch_size * world_size
        self.steps_per_epoch = num_images // self.global_batch
        if not self.steps_per_epoch:
            raise ConfigError(
                f"data.rec: {num_images} images cannot fill one global batch of {self.global_batch} ({batch_size} x "
                f"{world_size} ranks); lower train.batch_size"
            )
        self.start_at(epoch, start_step)

    def start_at(self, epoch: int, start_step: int = 0) -> None:
        """Let the next iteration begin at batch `start_step` of `epoch`."""
        assert 0 <= start_step <= self.steps_per_epoch, f"step {start_step} of {self.steps_per_epoch}"
        self.epoch = epoch
        self.start_step = start_step

    def __len__(self) -> int:
        return self.steps_per_epoch - self.start_step

    def __iter__(self) -> Iterator[IntArray]:
        order = self.order.epoch(self.epoch)
        for step in range(self.start_step, self.steps_per_epoch):
            first = self.first_position(step)
            yield order(np.arange(first, first + self.batch_size))

    def first_position(self, step: int) -> int:
        """Return where in the epoch's order this rank's part of batch `step` begins."""
        return step * self.global_batch + self.rank * self.batch_size

    def about_to_read(self, step: int) -> list[range]:
        """Return the neighboring images that the steps from `step` on will need, for reading ahead; mostly none."""
        return self.order.epoch(self.epoch).about_to_read(step * self.global_batch)
