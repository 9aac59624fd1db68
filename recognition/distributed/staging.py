"""Copies of a rank's tensors that stay still while training continues and a thread writes them to disk."""

from __future__ import annotations

from collections.abc import Mapping

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


def stage_tensors(staging: Staging, files: Files) -> torch.cuda.Event | None:
    """Copy the tensors as they are now.

    On CUDA the copies are queued before whatever comes next on this stream, and the event tells when they are done.
    """
    with torch.no_grad():
        for file, tensors in files.items():
            for name, tensor in tensors.items():
                staging.files[file][name].copy_(tensor, non_blocking=True)
    if not any(tensor.is_cuda for tensors in files.values() for tensor in tensors.values()):
        return None
    copied = torch.cuda.Event()
    copied.record()
    return copied


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
