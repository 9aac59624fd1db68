"""Leave autocast for the layers that need all of float32."""

from __future__ import annotations

import contextlib

import torch


def full_precision(features: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context in which autocast is off on the device of `features`.

    The dense layer sums up to 25,088 products and everything after it is read as angles, where bf16's 8 bits are too
    coarse; insightface leaves autocast at the same place.
    """
    # A meta tensor computes nothing, and autocast does not know its device.
    return torch.autocast("cuda" if features.is_cuda else "cpu", enabled=False)
