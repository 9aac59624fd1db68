"""Pass 1 as kernels: row sums and maxima with E r in chunks that stay in L2, or with dx's numerator formed on chip.

Imported only where Triton is installed. x is s times the unit embeddings, in bf16; w the centers in bf16. A class takes
part by its position among the active ones; `rows` says where its center lies when only a sample takes part.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from recognition.heads.fused.shapes import OnChip, Tile

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
"""Whether Triton interprets kernels: it keeps bf16 in whole numbers, which its `dot` takes them for, and cuts off."""
PIECE = 128
"""Of an embedding's dimensions, whose sums are one accumulator of a program on chip."""


def logits(
    x: Tensor,
    w: Tensor,
    norms: Tensor,
    positions: Tensor,
    totals: Tensor,
    largest: Tensor,
    e: Tensor | None,
    *,
    start: int,
    limit: float,
    shift: float,
    tile: Tile,
) -> None:
    """Fold the classes `w` [n, D] into `totals` [T, N, float64] and `largest` [T, N] of z - shift; write E r to `e`.

    T is at least the chunk's tiles of classes: each adds to a row of its own, so that the sum has one order. Own and
    filtered classes are 0 in `e` [N, n] bf16; without it the sums alone are formed.
    """
    grid = (triton.cdiv(len(x), tile.rows), triton.cdiv(len(w), tile.classes))
    _logits[grid](
        x,
        w,
        norms,
        positions,
        totals,
        largest,
        x if e is None else e,
        len(x),
        len(w),
        start,
        limit,
        shift,
        D=x.shape[1],
        ROWS=tile.rows,
        CLASSES=tile.classes,
        DEPTH=tile.depth,
        WANTS_E=e is not None,
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def sums_on_chip(
    x: Tensor,
    w: Tensor,
    norms: Tensor,
    positions: Tensor,
    totals: Tensor,
    largest: Tensor,
    numerators: Tensor,
    *,
    start: int,
    limit: float,
    shift: float,
    shape: OnChip,
) -> None:
    """Write the sums of all classes `w` [n, D] in S shares: `totals` and `largest` [S, N], `numerators` [S, N, D].

    E never leaves the chip; each 64 rows of x read every class once, from L2.
    """
    shares = len(totals)
    each = triton.cdiv(triton.cdiv(len(w), shape.classes), shares) * shape.classes
    _sums_on_chip[(triton.cdiv(len(x), shape.rows), shares)](
        x,
        w,
        norms,
        positions,
        totals,
        largest,
        numerators,
        len(x),
        len(w),
        each,
        start,
        limit,
        shift,
        PIECE=PIECE,
        PIECES=x.shape[1] // PIECE,
        ROWS=shape.rows,
        CLASSES=shape.classes,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )


@triton.jit
def dot(left, right, total):  # type: ignore[no-untyped-def]
    """Return total + left @ right in float32, of bf16 tiles."""
    if INTERPRETED:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total)


@triton.jit
def rounded(value, to: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return float32 `value` in type `to`: rounded to the nearest, at a tie to even, where the interpreter cuts off."""
    if INTERPRETED and to == tl.bfloat16:
        bits = value.to(tl.int32, bitcast=True)
        nearest = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        # A NaN's bits could be carried into the sign: its own upper half, made quiet, is a NaN.
        bits = tl.where(value == value, nearest, (bits >> 16) | 0x40)
        return bits.to(tl.int16).to(to, bitcast=True)
    return value.to(to)


@triton.jit
def negatives(t, norm, target, class_of, has_class, limit, shift):  # type: ignore[no-untyped-def]
    """Return z - shift of a tile [rows, classes] of t = s x w; own, filtered and absent classes are at -inf."""
    z = t * norm[None, :]
    # A NaN is above no limit: it stays, and the sum carries it.
    keeps = has_class[None, :] & (class_of[None, :] != target[:, None]) & ((z > limit) == 0)
    return tl.where(keeps, z - shift, float("-inf"))


@triton.jit(do_not_specialize=["start"])
def _logits(  # type: ignore[no-untyped-def]
    x,
    w,
    norms,
    positions,
    totals,
    largest,
    e,
    num_rows,
    num_classes,
    start,
    limit,
    shift,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
    DEPTH: tl.constexpr,
    WANTS_E: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # fastest: programs that run together share the classes
    column = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    has_row, has_class = row < num_rows, column < num_classes
    depth = tl.arange(0, DEPTH)
    x_at = x + row.to(tl.int64)[:, None] * D + depth[None, :]
    w_at = w + column.to(tl.int64)[None, :] * D + depth[:, None]
    t = tl.zeros([ROWS, CLASSES], dtype=tl.float32)
    for first in range(0, D, DEPTH):
        x_tile = tl.load(x_at + first, mask=has_row[:, None], other=0.0)
        w_tile = tl.load(w_at + first, mask=has_class[None, :], other=0.0)
        t = dot(x_tile, w_tile, t)
    norm = tl.load(norms + column, mask=has_class, other=0.0)
    target = tl.load(positions + row, mask=has_row, other=-1) - start
    z = negatives(t, norm, target, column, has_class, limit, shift)
    slot = tl.program_id(1).to(tl.int64) * num_rows + row
    best = tl.load(largest + slot, mask=has_row, other=0.0)
    tl.store(largest + slot, tl.maximum(best, tl.max(z, axis=1)), mask=has_row)
    exp = tl.exp(z)
    total = tl.load(totals + slot, mask=has_row, other=0.0)
    tl.store(totals + slot, total + tl.sum(exp, axis=1).to(tl.float64), mask=has_row)
    if WANTS_E:
        place = row.to(tl.int64)[:, None] * num_classes + column[None, :]
        tl.store(
            e + place, rounded(exp * norm[None, :], e.dtype.element_ty), mask=has_row[:, None] & has_class[None, :]
        )


@triton.jit(do_not_specialize=["start"])
def _sums_on_chip(  # type: ignore[no-untyped-def]
    x,
    w,
    norms,
    positions,
    totals,
    largest,
    numerators,
    num_rows,
    num_classes,
    each,
    start,
    limit,
    shift,
    PIECE: tl.constexpr,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    share = tl.program_id(1)
    has_row = row < num_rows
    target = tl.load(positions + row, mask=has_row, other=-1) - start
    depth = tl.arange(0, PIECE)
    x_at = x + row.to(tl.int64)[:, None] * (PIECE * PIECES) + depth[None, :]
    x_tiles = ()
    sums = ()
    for piece in tl.static_range(PIECES):
        x_tiles = x_tiles + (tl.load(x_at + piece * PIECE, mask=has_row[:, None], other=0.0),)
        sums = sums + (tl.zeros([ROWS, PIECE], dtype=tl.float32),)
    total = tl.zeros([ROWS], dtype=tl.float64)
    slot = share.to(tl.int64) * num_rows + row
    best = tl.load(largest + slot, mask=has_row, other=0.0)
    for first in range(share * each, tl.minimum((share + 1) * each, num_classes), CLASSES):
        column = first + tl.arange(0, CLASSES)
        has_class = column < num_classes
        w_at = w + column.to(tl.int64)[:, None] * (PIECE * PIECES) + depth[None, :]
        w_tiles = ()
        t = tl.zeros([ROWS, CLASSES], dtype=tl.float32)
        for piece in tl.static_range(PIECES):
            w_tiles = w_tiles + (tl.load(w_at + piece * PIECE, mask=has_class[:, None], other=0.0),)
            t = dot(x_tiles[piece], tl.trans(w_tiles[piece]), t)
        norm = tl.load(norms + column, mask=has_class, other=0.0)
        z = negatives(t, norm, target, column, has_class, limit, shift)
        best = tl.maximum(best, tl.max(z, axis=1))
        exp = tl.exp(z)
        total += tl.sum(exp, axis=1).to(tl.float64)
        er = rounded(exp * norm[None, :], x.dtype.element_ty)
        new = ()
        for piece in tl.static_range(PIECES):
            new = new + (dot(er, w_tiles[piece], sums[piece]),)
        sums = new
    tl.store(largest + slot, best, mask=has_row)
    tl.store(totals + slot, total, mask=has_row)
    out_at = numerators + slot[:, None] * (PIECE * PIECES) + depth[None, :]
    for piece in tl.static_range(PIECES):
        tl.store(out_at + piece * PIECE, sums[piece], mask=has_row[:, None])
