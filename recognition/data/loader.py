"""From a dataset to ready batches on the device, in the sampler's order, with errors that arrive as one line."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from recognition.data.datasets import Dataset
from recognition.data.permutation import IntArray
from recognition.data.sampler import GlobalBatchSampler
from recognition.distributed.world import World
from recognition.errors import ArcShardError, DataError

_PREFETCH = 4  # batches per worker


class Batch(NamedTuple):
    """One rank's share of a global batch."""

    images: Tensor  # uint8 [B, S, S, 3] RGB
    labels: Tensor  # int64 [B]
    indices: Tensor  # int64 [B], the images' positions in the dataset


class BatchLoader:
    """Yields this rank's batches of any epoch, from any step on, ready on `device`.

    `num_workers` processes read and decode; 0 does it in this process. They live as long as the loader, across epochs.
    `wait_s` is the total time the consumer has spent waiting for batches.
    A damaged image or label raises DataError in the consumer, with the words it would have had without workers.
    """

    def __init__(
        self, dataset: Dataset, *, seed: int, batch_size: int, world: World, num_workers: int, device: torch.device
    ) -> None:
        self._sampler = GlobalBatchSampler(
            len(dataset), seed=seed, batch_size=batch_size, rank=world.rank, world_size=world.size
        )
        self.steps_per_epoch = self._sampler.steps_per_epoch
        self.wait_s = 0.0
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._batches: DataLoader[Any] = DataLoader(
            _BatchReader(dataset),  # type: ignore[arg-type]  # it is read by whole batches only
            batch_sampler=self._sampler,  # type: ignore[arg-type]  # yields arrays, which are no lists
            collate_fn=_as_is,
            num_workers=num_workers,
            pin_memory=device.type == "cuda",
            **_worker_settings() if num_workers else {},
        )

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """Yield the batches of `epoch` from `start_step` on.

        An epoch may be left early; the next call starts afresh.
        """
        self._sampler.start_at(epoch, start_step)
        started = time.perf_counter()
        arriving = iter(self._batches)
        while (loaded := self._next(arriving)) is not None:
            if isinstance(loaded, str):
                raise DataError(loaded)
            batch = self._to_device(loaded)
            self.wait_s += time.perf_counter() - started
            yield batch
            started = time.perf_counter()

    def _next(self, arriving: Iterator[Any]) -> Batch | str | None:
        try:
            return next(arriving, None)
        except RuntimeError as err:
            # torch reports a worker that was killed by these words only.
            if "exited unexpectedly" in str(err):
                reason = str(err).splitlines()[0]
                raise DataError(
                    f"data loader: {reason}; expected a batch; was the memory full? lower data.num_workers"
                ) from err
            raise

    def _to_device(self, batch: Batch) -> Batch:
        if self._stream is None:
            return batch
        consumer = torch.cuda.current_stream(self._device)
        # On a stream of its own the copy runs while the previous step still computes.
        with torch.cuda.stream(self._stream):
            moved = Batch(*(tensor.to(self._device, non_blocking=True) for tensor in batch))
        consumer.wait_stream(self._stream)
        for tensor in moved:
            # The allocator knows only the copying stream; without this it may reuse the memory under the consumer.
            tensor.record_stream(consumer)
        return moved


class _BatchReader:
    """What the workers run: a whole batch at a time into one tensor, failures as text."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitems__(self, indices: IntArray) -> Batch | str:
        # torch re-raises a worker's exception with its traceback as the message; text arrives as it was written.
        try:
            return read_batch(self._dataset, indices)
        except ArcShardError as err:
            return str(err)


def read_batch(dataset: Dataset, indices: IntArray) -> Batch:
    """Return the images at `indices` [B] as one batch in host memory."""
    first, label = dataset[int(indices[0])]
    images = torch.empty((len(indices), *first.shape), dtype=torch.uint8)
    labels = torch.empty(len(indices), dtype=torch.int64)
    pixels = images.numpy()
    pixels[0], labels[0] = first, label
    for row, index in enumerate(indices[1:], start=1):
        pixels[row], labels[row] = dataset[int(index)]
    return Batch(images, labels, torch.from_numpy(np.asarray(indices, dtype=np.int64)))


def _as_is(batch: Any) -> Any:
    return batch


def _worker_settings() -> dict[str, Any]:
    # A fork copies the locks of CUDA's, gloo's and TensorBoard's threads in whatever state they are, so workers come
    # from a clean server process. It imports torch once, and each worker is then a cheap fork of it.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.utils.data", "cv2", "recognition.data.loader"])
    return {
        "multiprocessing_context": context,
        "persistent_workers": True,
        "prefetch_factor": _PREFETCH,
        "worker_init_fn": _start_worker,
    }


def _start_worker(worker_id: int) -> None:
    cv2.setNumThreads(1)  # the workers share the cores among themselves; OpenCV would start a pool in each
