"""From requests to ready batches on the device, in the order asked for, read by processes a few batches ahead."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator

import torch

from recognition.feed.bad_records import BadRecordPolicy
from recognition.feed.batches import Batch, BatchLayout, Request
from recognition.feed.dataset import Pictures
from recognition.feed.workers import BatchSource, InlineSource, WorkerSource
from recognition.work.page_lock import lock_pages


class BatchReader:
    """Reads batches of `batch_size` pictures to `device`.

    `num_workers` processes read and decode, each in `num_threads` threads; 0 does it in this process. They live as long
    as the reader. A damaged picture raises DataError in the consumer, with the words it would have had without workers;
    with a `policy` it is replaced by another.
    """

    def __init__(
        self,
        pictures: Pictures,
        *,
        batch_size: int,
        device: torch.device,
        num_workers: int,
        num_threads: int = 1,
        policy: BadRecordPolicy | None = None,
    ) -> None:
        layout = BatchLayout(batch_size, pictures.image_size)
        self._source: BatchSource = (
            WorkerSource(pictures, layout, num_workers=num_workers, num_threads=num_threads, policy=policy)
            if num_workers
            else InlineSource(pictures, layout, num_threads=num_threads, policy=policy)
        )
        on_cuda = device.type == "cuda"
        self._hand_over = _CopyToCuda(self._source, layout, device) if on_cuda else _Copy(self._source, layout)

    def batches(self, requests: Iterator[Request]) -> Iterator[Batch]:
        """Yield the batch of each request; may be left early, and the next call starts afresh."""
        self._hand_over.reset()
        self._source.discard()
        while True:
            for request in itertools.islice(requests, self._source.num_free):
                self._source.submit(request)
            batch = self._hand_over.next()
            if batch is None:
                return
            yield batch

    def pids(self) -> list[int]:
        """Return the processes that decode; none when this one does."""
        return self._source.pids()

    def close(self) -> None:
        """End the worker processes; they also end with the reader."""
        self._source.close()


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
