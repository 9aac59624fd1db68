"""Matrix products of float32 tensors into float32, with inputs rounded where the config says so."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError

Kind = Literal["float32", "tf32", "bf16"]
Asked = Literal["auto", "float32", "tf32", "bf16"]

_AMPERE = (8, 0)
_GPU = ("cuda", "meta")
"""Devices whose products take bf16; "meta" is a GPU that is only planned for."""


def resolve_products(asked: Asked, device: torch.device) -> Kind:
    """Return what "auto" means on `device`: bf16 on GPUs from Ampere on, where torch sums it in float32; else float32.

    A GPU that is only planned for is taken to be one of these.
    """
    if asked != "auto":
        return asked
    if device.type != "cuda" or not has_float32_sums():
        return "float32"
    is_here = torch.cuda.is_available()
    return "bf16" if not is_here or torch.cuda.get_device_capability(device) >= _AMPERE else "float32"


def check_products(kind: Kind, device: torch.device) -> None:
    """Raise ConfigError where this torch has no product of bfloat16 matrices into float32.

    A bfloat16 result would not do: a logit of 60 would be off by an eighth.
    """
    if kind == "bf16" and device.type == "cuda" and not has_float32_sums():
        raise ConfigError(
            f"head.products: found 'bf16' with torch {torch.__version__}, expected torch 2.8 or newer for it on CUDA; "
            "update torch or set head.products=float32"
        )


@contextlib.contextmanager
def product_precision(kind: Kind, device: torch.device) -> Iterator[None]:
    """Let products inside be computed as `kind` says, whatever the process has set; sums stay float32.

    On a CPU bf16 is oneDNN's: it rounds while it packs the matrices, so no bfloat16 copy of a block is written. Where
    the processor has no bfloat16 instructions, and for tf32, products there stay float32. On CUDA `multiply` rounds to
    bf16 itself, and what is left in float32 is in TF32 for tf32 alone.
    """
    settings: Any
    if device.type == "cuda":
        settings, wanted = torch.backends.cuda.matmul, "tf32" if kind == "tf32" else "ieee"
    else:
        settings, wanted = getattr(torch.backends.mkldnn, "matmul", None), "bf16"
    if device.type != "cuda" and kind != "bf16":
        yield
    elif hasattr(settings, "fp32_precision"):
        before, settings.fp32_precision = settings.fp32_precision, wanted
        try:
            yield
        finally:
            settings.fp32_precision = before
    else:  # torch before 2.9 has one switch for all devices, and "medium" would be TF32 on a GPU
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision({"tf32": "high", "ieee": "highest", "bf16": "medium"}[wanted])
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def multiply(left: Tensor, right: Tensor, out: Tensor, kind: Kind) -> Tensor:
    """Write left @ right to `out` and return it."""
    if kind == "bf16" and left.device.type in _GPU:
        return torch.mm(left.bfloat16(), right.bfloat16(), out_dtype=torch.float32, out=out)
    return torch.mm(left.to(out.dtype), right.to(out.dtype), out=out)


def accumulate_(total: Tensor, left: Tensor, right: Tensor, kind: Kind, *, keep: float = 1.0) -> Tensor:
    """Replace `total` by keep * total + left @ right and return it; with keep 0, whatever it holds is ignored."""
    if kind != "bf16" or left.device.type not in _GPU:
        return total.addmm_(left.to(total.dtype), right.to(total.dtype), beta=keep)
    low_left, low_right = left.bfloat16(), right.bfloat16()
    if adds_in_float32(total.device):
        return torch.addmm(total, low_left, low_right, out_dtype=torch.float32, beta=keep, out=total)
    product = torch.mm(low_left, low_right, out_dtype=torch.float32)
    return total.mul_(keep).add_(product) if keep else total.copy_(product)


@functools.cache
def adds_in_float32(device: torch.device) -> bool:
    """Whether `addmm` takes bfloat16 matrices and a float32 sum on `device`: on CUDA since torch 2.10, `mm` since 2.8.

    Asked of the operation itself, once: its name is in older versions too.
    """
    total, low = (torch.zeros(16, 16, dtype=kind, device=device) for kind in (torch.float32, torch.bfloat16))
    try:
        torch.addmm(total, low, low, out_dtype=torch.float32, out=total)
    except (RuntimeError, TypeError):  # NotImplementedError is a RuntimeError
        return False
    return True


def has_float32_sums() -> bool:
    overloads: Any = torch.ops.aten.mm.overloads()
    return "dtype" in overloads
