"""The precision in which products of unit rows are fastest here, and how far they may be off."""

from __future__ import annotations

import functools
import time
from dataclasses import dataclass

import torch

_PROBE_SIDE = 512
_PROBES = 5


@dataclass(frozen=True)
class Sieve:
    """A dtype for rough cosines of unit rows; none is off by more than `error`."""

    dtype: torch.dtype
    error: float

    @classmethod
    def for_device(cls, device: torch.device, dimension: int) -> Sieve:
        """Return the faster of bfloat16 and float32, for rows of `dimension` numbers."""
        return cls.of(torch.bfloat16 if _prefers_bfloat16(device) else torch.float32, dimension)

    @classmethod
    def of(cls, dtype: torch.dtype, dimension: int) -> Sieve:
        """Return the error bound of `dtype`, whose sums are float32 at least."""
        # Two factors, the product and the threshold it is compared with are rounded once each, every time by up to
        # half the distance of neighboring numbers around 1; the sums add a rounding of float32 for each dimension.
        return cls(dtype, 4 * torch.finfo(dtype).eps / 2 + dimension * torch.finfo(torch.float32).eps)


@functools.cache
def _prefers_bfloat16(device: torch.device) -> bool:
    """Return whether products are faster in bfloat16: where the processor has no such units they are much slower."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    return _product_seconds(torch.bfloat16) < _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    square = torch.full((_PROBE_SIDE, _PROBE_SIDE), 0.01, dtype=dtype)
    times = []
    for _ in range(_PROBES):
        start = time.perf_counter()
        square @ square.T
        times.append(time.perf_counter() - start)
    return min(times)
