"""From a dataset to ready batches on the device, in the sampler's order, with errors that arrive as one line."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections import deque
from collections.abc import Iterator

import torch

from recognition.distributed.world import World, declared_local_size
from recognition.draws.permutation import IntArray
from recognition.errors import DataError
from recognition.feed.bad_records import BadRecordList, BadRecordPolicy, Replacements
from recognition.feed.batches import Batch, BatchLayout, Request
from recognition.feed.dataset import Dataset
from recognition.feed.loader_size import starvation_advice
from recognition.feed.orders import Order
from recognition.feed.sampler import GlobalBatchSampler
from recognition.feed.workers import BatchSource, InlineSource, WorkerSource
from recognition.work.page_lock import lock_pages
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
        layout = BatchLayout(batch_size, dataset.image_size)
        self._bad_records = bad_records
        policy = None if bad_records is None else BadRecordPolicy(Replacements(seed, len(dataset)), bad_records.add)
        self._source: BatchSource = (
            WorkerSource(dataset, layout, num_workers=num_workers, num_threads=num_threads, policy=policy)
            if num_workers
            else InlineSource(dataset, layout, num_threads=num_threads, policy=policy)
        )
        on_cuda = device.type == "cuda"
        self._hand_over = _CopyToCuda(self._source, layout, device) if on_cuda else _Copy(self._source, layout)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from `start_step` on.

        An epoch may be left early; the next call starts afresh.
        """
        started = time.perf_counter()
        self._sampler.start_at(epoch, start_step)
        self._hand_over.reset()
        self._source.discard()
        waiting = enumerate(self._sampler, start_step)
        while True:
            self._submit(waiting)
            batch = self._hand_over.next()
            self.wait_s += time.perf_counter() - started
            if batch is None:
                return
            yield batch
            started = time.perf_counter()

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
        return self._source.pids()

    def close(self) -> None:
        """End the worker processes; they also end with the loader."""
        self._source.close()

    def _submit(self, waiting: Iterator[tuple[int, IntArray]]) -> None:
        for step, indices in itertools.islice(waiting, self._source.num_free):
            self._source.submit(Request(indices, self._sampler.epoch, self._sampler.first_position(step)))
            spans = self._sampler.about_to_read(step + 1)
            if spans != self._read_ahead:
                self._read_ahead = spans
                self._dataset.read_ahead(spans)


class _Copy:
    """Hands batches over in memory that the consumer may keep."""

    def __init__(self, source: BatchSource, layout: BatchLayout) -> None:
        self._source = source
        self._layout = layout

    def reset(self) -> None:
        pass

    def next(self) -> Batch | None:
        if not self._source.num_pending:
            return None
        return self._layout.view(self._source.take(self._source.receive()))


class _CopyToCuda:
    """Copies batches from page-locked slots to the GPU on a stream of its own, beside the computation.

    The next batch is sent off before the present one is handed over, if it is there already.
    """

    def __init__(self, source: BatchSource, layout: BatchLayout, device: torch.device) -> None:
        self._source = source
        self._layout = layout
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._sent: deque[tuple[Batch, torch.Tensor, torch.cuda.Event, int]] = deque()
        self._in_flight: deque[tuple[torch.cuda.Event, int]] = deque()
        for memory in source.memory:
            lock_pages(memory, self)

    def reset(self) -> None:
        while self._sent:
            _, _, event, slot = self._sent.popleft()
            self._in_flight.append((event, slot))
        self._release_copied(wait=True)

    def next(self) -> Batch | None:
        self._release_copied(wait=False)
        if not self._sent:
            if not self._source.num_pending:
                return None
            self._send()
        if self._source.is_ready():
            self._send()
        batch, memory, event, slot = self._sent.popleft()
        self._in_flight.append((event, slot))
        consumer = torch.cuda.current_stream(self._device)
        consumer.wait_event(event)
        # The allocator knows only the copying stream; without this it may reuse the memory under the consumer.
        memory.record_stream(consumer)
        return batch

    def _send(self) -> None:
        slot = self._source.receive()
        filled = self._layout.view(self._source.slots[slot])
        labels, indices = filled.labels.clone(), filled.indices.clone()  # the slot is soon filled anew
        with torch.cuda.stream(self._stream):
            memory = self._source.slots[slot].to(self._device, non_blocking=True)
            event = torch.cuda.Event()
            event.record(self._stream)
        batch = self._layout.view(memory)._replace(labels_on_host=labels, indices_on_host=indices)
        self._sent.append((batch, memory, event, slot))

    def _release_copied(self, *, wait: bool) -> None:
        while self._in_flight and (wait or self._in_flight[0][0].query() or not self._source.num_free):
            event, slot = self._in_flight.popleft()
            event.synchronize()
            self._source.release(slot)
