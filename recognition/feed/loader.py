"""From a dataset to ready batches on the device, in the sampler's order, with errors that arrive as one line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from recognition.distributed.world import World, declared_local_size
from recognition.draws.permutation import IntArray
from recognition.errors import DataError
from recognition.feed.bad_records import BadRecordList, BadRecordPolicy, Replacements
from recognition.feed.batches import Batch, Request
from recognition.feed.dataset import Dataset
from recognition.feed.loader_size import starvation_advice
from recognition.feed.orders import Order
from recognition.feed.reader import BatchReader
from recognition.feed.sampler import GlobalBatchSampler
from recognition.work.system import usable_cores

__all__ = ["Batch", "BatchLoader"]


class BatchLoader:
    """Yields this rank's batches of any epoch, from any step on, ready on `device`.

    `num_workers` processes read and decode, each in `num_threads` threads; 0 does it in this process. They live as long
    as the loader, across epochs. `wait_s` is the total time the consumer has spent waiting for batches.
    A damaged image or label raises DataError in the consumer, with the words it would have had without workers; with
    `bad_records` it is replaced by another and listed there, until the list's budget is exceeded.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        seed: int,
        batch_size: int,
        world: World,
        num_workers: int,
        device: torch.device,
        num_threads: int = 1,
        order: Order | None = None,
        bad_records: BadRecordList | None = None,
    ) -> None:
        self._sampler = GlobalBatchSampler(
            len(dataset), seed=seed, batch_size=batch_size, rank=world.rank, world_size=world.size, order=order
        )
        self._dataset = dataset
        self.num_images = len(dataset)
        self._read_ahead: list[range] = []
        self.num_workers = num_workers
        self.num_threads = num_threads
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.wait_s = 0.0
        self._bad_records = bad_records
        policy = None
        if bad_records is not None:
            policy = BadRecordPolicy(Replacements(seed, len(dataset), dataset.origin), bad_records.add)
        self._reader = BatchReader(
            dataset,
            batch_size=batch_size,
            device=device,
            num_workers=num_workers,
            num_threads=num_threads,
            policy=policy,
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from `start_step` on.

        An epoch may be left early; the next call starts afresh.
        """
        started = time.perf_counter()
        self._sampler.start_at(epoch, start_step)
        for batch in self._reader.batches(self._requests()):
            self.wait_s += time.perf_counter() - started
            yield batch
            started = time.perf_counter()
        self.wait_s += time.perf_counter() - started

    def advice(self, wait_share: float, images_per_s: float) -> str | None:
        """Return which setting to raise when `wait_share` of this rank's time is waiting; None when all is well."""
        return starvation_advice(
            wait_share,
            images_per_s,
            num_workers=self.num_workers,
            num_threads=self.num_threads,
            cores=usable_cores(),
            ranks_here=declared_local_size(),
        )

    @property
    def num_bad_records(self) -> int:
        """How many records of the set could not be read so far, on any rank and in any restart of the run."""
        return 0 if self._bad_records is None else len(self._bad_records)

    def read(self, numbers: IntArray) -> torch.Tensor:
        """Return images of the set by number, uint8 [n, S, S, 3] on the host, read here; black where one is damaged."""
        side = self._dataset.image_size
        images = torch.zeros((len(numbers), side, side, 3), dtype=torch.uint8)
        for row, number in enumerate(numbers.tolist()):
            with contextlib.suppress(DataError):
                images[row] = torch.from_numpy(self._dataset[number][0])
        return images

    def dataset_fingerprint(self) -> dict[str, int | str]:
        """Return what tells the set that is trained on from others."""
        return self._dataset.fingerprint()

    def worker_pids(self) -> list[int]:
        """Return the processes that decode; none when this one does."""
        return self._reader.pids()

    def close(self) -> None:
        """End the worker processes; they also end with the loader."""
        self._reader.close()

    def _requests(self) -> Iterator[Request]:
        for step, indices in enumerate(self._sampler, self._sampler.start_step):
            spans = self._sampler.about_to_read(step + 1)
            if spans != self._read_ahead:
                self._read_ahead = spans
                self._dataset.read_ahead(spans)
            yield Request(indices, self._sampler.epoch, self._sampler.first_position(step))
