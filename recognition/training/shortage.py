"""Missing memory: the error of an allocator as one line about the run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import torch

from recognition.distributed.world import World
from recognition.errors import ArcShardError

_ALLOCATOR = "DefaultCPUAllocator"  # torch's CPU allocator raises a plain RuntimeError with its name in it
# So do libraries that take GPU memory past torch's allocator: cuBLAS, cuDNN, NCCL, the driver and Triton.
_IS_SHORTAGE = re.compile(
    r"DefaultCPUAllocator|CU(?:BLAS|DNN)_STATUS_ALLOC_FAILED|[Oo]ut of memory|Failed to CUDA (?:calloc|malloc)"
    r"|cudaErrorMemoryAllocation"
)


class MemoryShortage(ArcShardError):
    """A rank asked for more memory than its device or machine has; the last checkpoint stays."""


@contextlib.contextmanager
def shortages_told(world: World) -> Iterator[None]:
    """Turn what an allocator raises inside into a MemoryShortage that names rank and device and says what to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as err:
        if not isinstance(err, (MemoryError, torch.OutOfMemoryError)) and not _IS_SHORTAGE.search(str(err)):
            raise
        asked = str(err).partition("\n")[0].rpartition(f"{_ALLOCATOR}: ")[2] or "no memory is left"
        raise MemoryShortage(
            f"rank {world.rank} on {world.device}: {asked[:300]}; expected room for what --check says a rank needs; "
            "lower train.batch_size or head.sample_rate, store head.centers_format=bf16 head.momentum_format=int8, or "
            "take more ranks"
        ) from err
