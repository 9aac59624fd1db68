"""Matrix products of float32 tensors into float32, with inputs rounded to bfloat16 where the config says so."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from recognition.errors import ConfigError

Kind = Literal["float32", "bf16"]


def check_products(kind: Kind, device: torch.device) -> None:
    """Raise ConfigError where this torch has no product of bfloat16 matrices into float32.

    A bfloat16 result would not do: a logit of 60 would be off by an eighth.
    """
    if kind == "bf16" and device.type == "cuda" and "dtype" not in torch.ops.aten.mm.overloads():
        raise ConfigError(
            f"head.products: found 'bf16' with torch {torch.__version__}, expected torch 2.8 or newer for it on CUDA; "
            "update torch or set head.products=float32"
        )


@contextlib.contextmanager
def product_precision(kind: Kind) -> Iterator[None]:
    """Let CPU products inside round their inputs to bfloat16 if `kind` says so; sums stay float32.

    oneDNN rounds while it packs the matrices, so no bfloat16 copy of a block is written. Where the processor has no
    bfloat16 instructions, products stay float32. With torch before 2.9 the switch is one for all devices.
    """
    settings: Any = getattr(torch.backends.mkldnn, "matmul", None)
    if kind == "float32":
        yield
    elif hasattr(settings, "fp32_precision"):
        before, settings.fp32_precision = settings.fp32_precision, "bf16"
        try:
            yield
        finally:
            settings.fp32_precision = before
    else:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)


def multiply(left: Tensor, right: Tensor, out: Tensor, kind: Kind) -> Tensor:
    """Write left @ right to `out` and return it."""
    if kind == "bf16" and left.device.type == "cuda":
        return torch.mm(left.bfloat16(), right.bfloat16(), out_dtype=torch.float32, out=out)
    return torch.mm(left, right, out=out)


def accumulate_(total: Tensor, left: Tensor, right: Tensor, kind: Kind, *, keep: float = 1.0) -> Tensor:
    """Replace `total` by keep * total + left @ right and return it; with keep 0, whatever it holds is ignored."""
    if kind == "bf16" and left.device.type == "cuda":
        return torch.addmm(total, left.bfloat16(), right.bfloat16(), out_dtype=torch.float32, beta=keep, out=total)
    return total.addmm_(left, right, beta=keep)
