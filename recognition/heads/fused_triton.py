"""The elementwise part of a block as one kernel each, for CUDA: imported only where Triton is installed.

The arithmetic is that of block_loop.py for one center per class and a bounded scale. Checked against it in Triton's
interpreter; its speed on a GPU was not measured.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recognition.heads.fused.pass1 import rounded


def fold_(
    t: Tensor,
    norms: Tensor,
    positions: Tensor,
    largest: Tensor,
    total: Tensor,
    *,
    start: int,
    limit: float,
    shift: float,
    out: Tensor,
) -> None:
    """Fold a block of pass 1 into `largest` [N] of z - shift and `total` [N, float64]; write its E r to `out` [N, n].

    `t` [N, n] = s * (x @ w.T); own and filtered classes are 0 in `out`.
    """
    _fold[(len(t),)](t, norms, positions, largest, total, out, start, t.shape[1], limit, shift, BLOCK=1024)


def exponentials(
    t: Tensor,
    norms: Tensor,
    positions: Tensor,
    values: Tensor,
    column_weight: Tensor,
    *,
    start: int,
    limit: float,
    shift: float,
    out: Tensor,
) -> Tensor:
    """Write E r of a block to `out` [N, n] in its dtype; return the column sums of column_weight * t * E r [n]."""
    dot = torch.empty_like(norms)
    grid = (triton.cdiv(t.shape[1], 64),)
    _exponentials[grid](
        t,
        norms,
        positions,
        values,
        column_weight,
        out,
        dot,
        len(t),
        start,
        t.shape[1],
        limit,
        shift,
        ROWS=32,
        COLUMNS=64,
    )
    return dot


def update_(
    centers: Tensor, momentum: Tensor, gradient: Tensor, radial: Tensor, refused: Tensor, *, lr: float, keep: float
) -> None:
    """Take the step of SGD on float32 rows in place, unless `refused` (0-dim, on the device) is true."""
    grid = (triton.cdiv(centers.numel(), 1024),)
    _update[grid](
        centers,
        momentum,
        gradient,
        radial,
        refused.to(torch.int32),
        lr,
        keep,
        centers.numel(),
        centers.shape[1],
        BLOCK=1024,
    )


def try_all(device: torch.device) -> None:
    """Launch each kernel once on two rows and two classes; raises what Triton raises where it cannot."""
    t = torch.zeros(2, 2, device=device)
    ones = torch.ones(2, device=device)
    positions = torch.zeros(2, dtype=torch.int64, device=device)
    total = torch.zeros(2, dtype=torch.float64, device=device)
    fold_(t, ones, positions, ones.clone(), total, start=0, limit=1.0, shift=0.0, out=torch.empty_like(t))
    exponentials(t, ones, positions, ones, ones, start=0, limit=1.0, shift=0.0, out=torch.empty_like(t))
    refused = torch.zeros((), dtype=torch.bool, device=device)
    update_(t, torch.zeros_like(t), torch.zeros_like(t), ones, refused, lr=0.0, keep=0.0)


@triton.jit  # type: ignore[untyped-decorator]
def _fold(  # type: ignore[no-untyped-def]
    t, norms, positions, largest, total, out, start, num_columns, limit, shift, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    target = tl.load(positions + row) - start
    best = tl.load(largest + row)
    summed = tl.zeros([BLOCK], dtype=tl.float32)
    for first in range(0, num_columns, BLOCK):
        columns = first + tl.arange(0, BLOCK)
        inside = columns < num_columns
        place = row.to(tl.int64) * num_columns + columns
        norm = tl.load(norms + columns, mask=inside, other=0.0)
        z = tl.load(t + place, mask=inside, other=0.0) * norm
        # A NaN is above no limit: it stays, and the sum carries it.
        z = tl.where(inside & (columns != target) & ((z > limit) == 0), z - shift, float("-inf"))
        best = tl.maximum(best, tl.max(z, axis=0))
        e = tl.exp(z)
        summed += e
        tl.store(out + place, rounded(e * norm, out.dtype.element_ty), mask=inside)
    tl.store(largest + row, best)
    tl.store(total + row, tl.load(total + row) + tl.sum(summed, axis=0).to(tl.float64))


@triton.jit  # type: ignore[untyped-decorator]
def _exponentials(  # type: ignore[no-untyped-def]
    t,
    norms,
    positions,
    values,
    column_weight,
    out,
    dot,
    num_rows,
    start,
    num_columns,
    limit,
    shift,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    has_column = columns < num_columns
    norm = tl.load(norms + columns, mask=has_column, other=1.0)[None, :]
    gathered = tl.zeros([COLUMNS], dtype=tl.float32)
    for first in range(0, num_rows, ROWS):
        rows = first + tl.arange(0, ROWS)
        has_row = rows < num_rows
        place = rows.to(tl.int64)[:, None] * num_columns + columns[None, :]  # past 2^31 in large tiles
        inside = has_row[:, None] & has_column[None, :]
        raw = tl.load(t + place, mask=inside, other=0.0)
        z = raw * norm
        e = tl.where(z > limit, 0.0, tl.exp(z - shift) * norm)
        target = tl.load(positions + rows, mask=has_row, other=-1) - start
        value = tl.load(values + rows, mask=has_row, other=0.0)
        e = tl.where(columns[None, :] == target[:, None], value[:, None], e)
        tl.store(out + place, rounded(e, out.dtype.element_ty), mask=inside)
        weight = tl.load(column_weight + rows, mask=has_row, other=0.0)
        gathered += tl.sum(raw * e * weight[:, None], axis=0)
    tl.store(dot + columns, gathered, mask=has_column)


@triton.jit  # type: ignore[untyped-decorator]
def _update(centers, momentum, gradient, radial, refused, lr, keep, count, width, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count * (1 - tl.load(refused))
    w = tl.load(centers + place, mask=inside, other=0.0)
    m = tl.load(momentum + place, mask=inside, other=0.0)
    g = tl.load(gradient + place, mask=inside, other=0.0)
    m = keep * m + g + tl.load(radial + place // width, mask=inside, other=0.0) * w
    tl.store(momentum + place, m, mask=inside)
    tl.store(centers + place, w - lr * m, mask=inside)
