"""One batch as one stretch of memory, so that it is filled in place and travels in a single copy."""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing import reduction
from typing import Any, NamedTuple

import torch
from torch import Tensor

from recognition.draws.permutation import IntArray
from recognition.errors import DataError
from recognition.feed.bad_records import BadRecord, Replacements
from recognition.feed.dataset import Pictures
from recognition.work.system import anonymous_file


class Request(NamedTuple):
    """A batch to be filled: its images, which stand at `first`, `first` + 1, ... in the epoch's order of all ranks."""

    indices: IntArray  # [B]
    epoch: int
    first: int


class Batch(NamedTuple):
    """One rank's share of a global batch."""

    images: Tensor  # uint8 [B, S, S, 3] RGB
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], the images' positions in the dataset
    labels_on_host: Tensor | None = None  # the same labels, where the others are on a GPU
    indices_on_host: Tensor | None = None  # likewise


@dataclass(frozen=True)
class BatchLayout:
    """Where images, labels and indices of a batch lie in its memory."""

    batch_size: int
    image_size: int

    @property
    def image_bytes(self) -> int:
        return self.batch_size * self.image_size * self.image_size * 3

    @property
    def num_bytes(self) -> int:
        return self._labels_at + 16 * self.batch_size

    @property
    def _labels_at(self) -> int:
        return -(-self.image_bytes // 8) * 8  # int64 views start at multiples of eight

    def view(self, memory: Tensor) -> Batch:
        """Return the batch that `memory` (uint8 [num_bytes], any device) holds, without a copy."""
        size, labels_at = self.image_size, self._labels_at
        images = memory[: self.image_bytes].view(self.batch_size, size, size, 3)
        numbers = memory[labels_at : self.num_bytes].view(torch.int64)
        return Batch(images, numbers[: self.batch_size], numbers[self.batch_size :])


class SharedSlots:
    """Memory for `num_slots` batches that processes share; handed to a child by being an argument of its Process.

    An unnamed file in memory: unlike /dev/shm, which containers limit to 64 MB, it counts as ordinary memory, and
    nothing is left behind however the processes end.
    """

    def __init__(self, num_slots: int, layout: BatchLayout) -> None:
        self._map(anonymous_file(num_slots * layout.num_bytes), num_slots, layout)

    def _map(self, descriptor: int, num_slots: int, layout: BatchLayout) -> None:
        self._descriptor = descriptor
        self.num_slots = num_slots
        self.layout = layout
        memory = mmap.mmap(descriptor, num_slots * layout.num_bytes)
        self.memory = torch.frombuffer(memory, dtype=torch.uint8)
        self.slots = self.memory.view(num_slots, layout.num_bytes)

    def __getstate__(self) -> tuple[Any, ...]:
        return reduction.DupFd(self._descriptor), self.num_slots, self.layout

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._map(state[0].detach(), *state[1:])

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            os.close(self._descriptor)


class BatchFiller:
    """Reads and decodes whole batches in `num_threads` threads; decoding releases the GIL, so they do run at once."""

    def __init__(self, pictures: Pictures, num_threads: int, replacements: Replacements | None = None) -> None:
        self._pictures = pictures
        self._num_threads = num_threads
        self._replacements = replacements
        self._threads = ThreadPoolExecutor(num_threads, "decode") if num_threads > 1 else None

    def fill_(self, batch: Batch, request: Request) -> list[BadRecord]:
        """Write the images asked for into `batch` and return those that cannot be read, others in their places.

        Without replacements the error of the first bad one of a thread's part is raised.
        """
        batch.indices.numpy()[:] = request.indices
        fill = self._row_filler(batch, request)
        num_rows = len(request.indices)
        if self._threads is None:
            return fill(range(num_rows))
        parts = [range(start, num_rows, self._num_threads) for start in range(self._num_threads)]
        return [bad for found in self._threads.map(fill, parts) for bad in found]

    def _row_filler(self, batch: Batch, request: Request) -> Callable[[range], list[BadRecord]]:
        pictures, pixels, labels = self._pictures, batch.images.numpy(), batch.labels.numpy()
        indices = request.indices.tolist()

        def fill(rows: range) -> list[BadRecord]:
            bad: list[BadRecord] = []
            for row in rows:
                try:
                    pixels[row], labels[row] = pictures[indices[row]]
                except DataError as err:
                    if self._replacements is None:
                        raise
                    bad += self._replace_(batch, row, request, err)
            return bad

        return fill

    def _replace_(self, batch: Batch, row: int, request: Request, error: DataError) -> list[BadRecord]:
        """Write the first readable replacement into a row of `batch` and return what could not be read on the way."""
        assert self._replacements is not None, "a bad record without a policy for it"
        index, bad = int(request.indices[row]), []
        for candidate in self._replacements(request.epoch, request.first + row):
            bad.append(BadRecord(*self._replacements.origin(index), str(error)))
            try:
                batch.images.numpy()[row], batch.labels.numpy()[row] = self._pictures[candidate]
            except DataError as err:
                index, error = candidate, err
                continue
            batch.indices.numpy()[row] = candidate
            return bad
        raise DataError(f"{len(bad)} records in a row cannot be read, the last one: {error}") from error
