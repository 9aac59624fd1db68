"""Copies of a rank's tensors that stay still while training continues and a thread writes them to disk."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from recognition.distributed.tensor_file import arranged
from recognition.errors import CheckpointError
from recognition.work.page_lock import lock_pages

Files = Mapping[str, Mapping[str, Tensor]]


class Staging:
    """Host memory for one copy of the tensors of a checkpoint's files, allocated and touched once.

    Beside a GPU it is page-locked, so that a copy runs at the link's full rate.
    """

    def __init__(self, files: Files) -> None:
        tensors = [tensors[name] for tensors in files.values() for name in arranged(tensors)]
        self._memory = torch.empty(sum(_padded(tensor.nbytes) for tensor in tensors), dtype=torch.uint8)
        self._memory.zero_()  # a page is given when it is first written to; not during the first save
        if any(tensor.is_cuda for tensor in tensors):
            lock_pages(self._memory, self)
        start = 0
        self.files: dict[str, dict[str, Tensor]] = {}
        for file, tensors_of_file in files.items():
            self.files[file] = {}
            for name in arranged(tensors_of_file):
                like = tensors_of_file[name]
                place = self._memory[start : start + like.nbytes]
                self.files[file][name] = place.view(like.dtype).view(like.shape)
                start += _padded(like.nbytes)

    @property
    def num_bytes(self) -> int:
        """Return how much memory it takes."""
        return self._memory.nbytes


class DeviceCopy:
    """Copies from a GPU that are under way, some of them on a stream beside the training's.

    `cuda` is torch.cuda, or what a test has in its place.
    """

    def __init__(self, cuda: Any = torch.cuda) -> None:
        self._cuda = cuda
        self._side = cuda.Stream()
        self._began, self._done, self._held, self._released = (cuda.Event(enable_timing=True) for _ in range(4))
        self._is_held = False

    def run(self, copies: Iterable[tuple[Tensor, Tensor]], beside: Iterable[tuple[Tensor, Tensor]]) -> None:
        """Queue (target, source) pairs: `copies` before whatever comes next on this stream, `beside` on the other."""
        training = self._cuda.current_stream()
        for target, source in copies:
            target.copy_(source, non_blocking=True)
        self._side.wait_stream(training)  # after the step before, and after `copies`
        with self._cuda.stream(self._side):
            self._began.record()
            for target, source in beside:
                target.copy_(source, non_blocking=True)
            self._done.record()

    def hold(self) -> None:
        """Let what this stream does from here on wait for the copies: their sources may change then."""
        if self._is_held:
            return
        self._is_held = True
        self._held.record()
        self._cuda.current_stream().wait_event(self._done)
        self._released.record()

    def wait(self) -> None:
        """Wait on the host until all is copied."""
        self._done.synchronize()

    def told(self) -> str:
        """Return for the log how long the copies beside the training took, and how long they held a step up."""
        copied = f"copied from the GPU in {self._began.elapsed_time(self._done) / 1e3:.3f}s"
        if not (self._is_held and self._released.query()):
            return copied
        return f"{copied}, a step held for {self._held.elapsed_time(self._released) / 1e3:.3f}s"


def stage_tensors(staging: Staging, files: Files, *, beside: Collection[str] = ()) -> DeviceCopy | None:
    """Copy the tensors as they are now.

    On CUDA the copies are queued before whatever comes next on this stream; those of the files `beside` on a stream of
    their own, and whoever changes their sources calls `hold` of what is returned before.
    """

    def pairs(names: Iterable[str]) -> list[tuple[Tensor, Tensor]]:
        return [(staging.files[file][name], tensor) for file in names for name, tensor in files[file].items()]

    with torch.no_grad():
        if not any(tensor.is_cuda for tensors in files.values() for tensor in tensors.values()):
            for target, source in pairs(files):
                target.copy_(source)
            return None
        copy = DeviceCopy()
        copy.run(pairs(file for file in files if file not in beside), pairs(beside))
        return copy


def refuse_broken(files: Files) -> None:
    """Raise CheckpointError when a staged tensor holds a NaN or an infinity: a run could never continue from it."""
    for tensors in files.values():
        for name, tensor in tensors.items():
            if tensor.is_floating_point() and tensor.numel() and not _is_finite(tensor):
                raise CheckpointError(f"{name!r} is not finite; expected numbers to continue from")


def _is_finite(tensor: Tensor) -> bool:
    # Both ends in one walk, and a NaN is both; isfinite() would fill a temporary of a quarter of the size.
    smallest, largest = torch.aminmax(tensor)
    return bool(smallest.isfinite() and largest.isfinite())


def _padded(num_bytes: int) -> int:
    return -(-num_bytes // 64) * 64
