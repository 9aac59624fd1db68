"""Copies between the host and a device that run beside the work of both. On the CPU nothing is copied."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch


def page_locked(values: np.ndarray) -> torch.Tensor:
    """Return a copy, float32 or float64, in page-locked memory: torch uses that anew only when it has traveled."""
    dtype = torch.float32 if values.dtype == np.float32 else torch.float64
    held = torch.empty(values.shape, dtype=dtype, pin_memory=True)
    held.numpy()[...] = values
    return held


def sent_home(values: torch.Tensor) -> torch.Tensor:
    """Return a tensor on the host that holds the values once a `mark` made later has been waited for."""
    if values.device.type == "cpu":
        return values
    held = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    return held.copy_(values, non_blocking=True)


def arrived(values: torch.Tensor) -> np.ndarray:
    """Return what was `sent_home`, after the wait."""
    found: np.ndarray = values.numpy()
    return found


def mark(device: torch.device) -> Callable[[], None]:
    """Return a function that waits for what the device was asked so far; the CPU has always done it."""
    if device.type == "cpu":
        return lambda: None
    event = torch.cuda.Event()
    event.record()
    wait: Callable[[], None] = event.synchronize
    return wait
