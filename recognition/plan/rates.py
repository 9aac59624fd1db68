"""How fast a machine is: given, or measured here in a few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

_MEASURE_S = 0.5


@dataclass(frozen=True)
class Rates:
    """Per rank and second; None where unknown."""

    flops_16_bit: float | None = None
    """Of matrix products in bf16 or fp16, a multiply-add counting two."""
    flops_float32: float | None = None
    memory_bytes_per_s: float | None = None
    wire_bytes_per_s: float | None = None
    """To the other ranks; it is not measured, since that takes the other ranks."""


def measure_rates() -> Rates:
    """Time square matrix products and a copy on this machine: its GPU where there is one, else its CPU."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    side = 8192 if device.type == "cuda" else 1024

    def products(dtype: torch.dtype) -> float:
        left, right, out = (torch.zeros(side, side, dtype=dtype, device=device) for _ in range(3))
        return 2.0 * side**3 / _seconds_per_call(lambda: torch.mm(left, right, out=out), device)

    source = torch.zeros(2**28 if device.type == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    copied = 2.0 * source.nbytes / _seconds_per_call(lambda: target.copy_(source), device)
    return Rates(products(torch.bfloat16), products(torch.float32), copied)


def _seconds_per_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the mean time of `call` over half a second, after one call to warm up."""
    call()
    _wait(device)
    started, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < _MEASURE_S or not calls:
        call()
        calls += 1
        if calls % 8 == 0 or device.type == "cpu":
            _wait(device)
    _wait(device)
    return max(elapsed, time.perf_counter() - started) / calls


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
