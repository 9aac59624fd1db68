"""The precision of a network's products: autocast, and the layers that leave it for all of float32."""

from __future__ import annotations

import contextlib

import torch

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The type in which products are computed under each `precision`; under any other, "off", in float32."""


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return a context in which products on `device` are computed in `precision`."""
    dtype = AUTOCAST.get(precision)
    return torch.autocast(device.type, dtype, enabled=dtype is not None)


def full_precision(features: torch.Tensor) -> contextlib.AbstractContextManager[None]:
    """Return a context in which autocast is off on the device of `features`.

    The dense layer sums up to 25,088 products and everything after it is read as angles, where bf16's 8 bits are too
    coarse; insightface leaves autocast at the same place.
    """
    # A meta tensor computes nothing, and autocast does not know its device.
    return torch.autocast("cuda" if features.is_cuda else "cpu", enabled=False)
