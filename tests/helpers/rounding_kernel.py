"""A kernel that rounds and nothing else; imported only where Triton is installed."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from recognition.heads.fused.pass1 import rounded


def round_to(values: Tensor, out: Tensor) -> None:
    """Write float32 `values` [n], n a power of two, to `out` in its type, as the head's kernels do."""
    _round_to[(1,)](values, out, COUNT=len(values))


@triton.jit
def _round_to(values, out, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.arange(0, COUNT)
    tl.store(out + place, rounded(tl.load(values + place), out.dtype.element_ty))
