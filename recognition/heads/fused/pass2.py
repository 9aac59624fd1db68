"""Pass 2 as one kernel: E r recomputed on chip, the centers' gradient from it, and the step of SGD at its end.

Imported only where Triton is installed. A program keeps some classes and walks the rows of the batch; its sums
[classes, D] are the gradient, which exists nowhere else. At the end it moves momentum and centers as they are stored,
rounds as state.py does, and writes the next inverse norms and the bf16 copy of float32 centers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recognition.heads.fused.pass1 import dot, rounded
from recognition.heads.fused.shapes import OnChip
from recognition.heads.fused.stored import Numbers, Stored

PIECE = 64
"""Of an embedding's dimensions: sums are moved and stored one piece after another."""
SMALLEST = tl.constexpr(1.1754943508222875e-38)
"""The smallest normal number: a row without momentum has no scale."""


def descend_(
    x: Tensor,
    weight: Tensor,
    positions: Tensor,
    values: Tensor,
    stored: Stored,
    numbers: Numbers,
    *,
    first_row: int,
    limit: float,
    shift: float,
    shape: OnChip,
) -> None:
    """Move all rows of `stored` that take part by the gradient of the batch.

    `x` [N, D] bf16 is s times the unit embeddings, `weight` [N] is a / s, `values` [N] what E r is at the own class;
    `first_row` is the global row of the first stored one, by which bf16 centers round.
    """
    count = len(stored.centers) if stored.sample is None else len(stored.sample)
    kinds = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 3}
    nothing = stored.centers
    _descend[(triton.cdiv(count, shape.classes),)](
        x,
        weight,
        positions,
        values,
        stored.centers.view(torch.int16) if stored.centers.dtype == torch.bfloat16 else stored.centers,
        stored.shadow,
        nothing if stored.momentum is None else stored.momentum,
        nothing if stored.momentum_scale is None else stored.momentum_scale,
        stored.inverse_norm,
        nothing if stored.sample is None else stored.sample,
        numbers.rates,
        numbers.keys,
        numbers.refused,
        len(x),
        count,
        first_row,
        limit,
        shift,
        PIECE=PIECE,
        PIECES=x.shape[1] // PIECE,
        ROWS=shape.rows,
        CLASSES=shape.classes,
        ROUNDS=stored.centers.dtype == torch.bfloat16,
        COPIES=stored.shadow.data_ptr() != stored.centers.data_ptr(),
        MOMENTUM=0 if stored.momentum is None else kinds[stored.momentum.dtype],
        SAMPLED=stored.sample is not None,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )


@triton.jit
def _mix64(x):  # type: ignore[no-untyped-def]
    """Hash int64 as draws/hashing.py does."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


@triton.jit
def places(  # type: ignore[no-untyped-def]
    sample,
    program,
    num_classes,
    CLASSES: tl.constexpr,
    PIECE: tl.constexpr,
    PIECES: tl.constexpr,
    SAMPLED: tl.constexpr,
):
    """Return a program's classes by their place among the active ones, which of them there are, and the stored rows.

    And where the first piece of each row is: a base and offsets from it.
    """
    column = program * CLASSES + tl.arange(0, CLASSES)
    has_class = column < num_classes
    depth = tl.arange(0, PIECE)
    if SAMPLED:
        stored, base = tl.load(sample + column, mask=has_class, other=0), 0
        place = stored[:, None] * (PIECE * PIECES) + depth[None, :]
    else:  # one base and small offsets: addresses of 64 bits for each element would not fit the registers
        stored, base = column.to(tl.int64), program.to(tl.int64) * CLASSES * PIECE * PIECES
        place = tl.arange(0, CLASSES)[:, None] * (PIECE * PIECES) + depth[None, :]
    return column, has_class, stored, base, place


@triton.jit
def center_at(centers, place, inside, ROUNDS: tl.constexpr):  # type: ignore[no-untyped-def]
    value = tl.load(centers + place, mask=inside, other=0)
    if ROUNDS:
        value = (value.to(tl.int32) << 16).to(tl.float32, bitcast=True)
    return value


@triton.jit
def held_at(momentum_at, scale, inside, MOMENTUM: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the momentum, or AdamW's first moment, before the step in float32."""
    held = tl.load(momentum_at, mask=inside, other=0).to(tl.float32)
    if MOMENTUM == 3:
        held = held * scale[:, None]
    return held


@triton.jit
def noise(row, depth, keys):  # type: ignore[no-untyped-def]
    """Return 16 random bits of each element: the exclusive or of a number of its row and one of its column."""
    of_row = _mix64(_mix64(row + tl.load(keys)) + tl.load(keys + 1))
    of_column = _mix64(depth.to(tl.int64) + tl.load(keys + 2))
    return (of_row.to(tl.int32)[:, None] ^ of_column.to(tl.int32)[None, :]) & 0xFFFF


@triton.jit
def store_centers(centers, shadow, at, inside, w, row, depth, keys, ROUNDS: tl.constexpr, COPIES: tl.constexpr):  # type: ignore[no-untyped-def]
    """Store float32 `w`, rounded at random where it is kept in bf16; return the squares' sums of what is kept."""
    if ROUNDS:
        bits = (w.to(tl.int32, bitcast=True) + noise(row, depth, keys)) >> 16
        tl.store(centers + at, bits.to(tl.int16), mask=inside)
        w = (bits << 16).to(tl.float32, bitcast=True)
    else:
        tl.store(centers + at, w, mask=inside)
    if COPIES:
        tl.store(shadow + at, rounded(w, shadow.dtype.element_ty), mask=inside)
    return tl.sum(w * w, axis=1)


@triton.jit
def gradient(  # type: ignore[no-untyped-def]
    x,
    weight,
    positions,
    values,
    w_tiles,
    norm,
    column,
    num_rows,
    limit,
    shift,
    PIECE: tl.constexpr,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
):
    """Return the sums E' x [CLASSES, D] in pieces, and the column sums of E' t [CLASSES], with E' = E r a / s."""
    depth = tl.arange(0, PIECE)
    sums = ()
    for _ in tl.static_range(PIECES):
        sums = sums + (tl.zeros([CLASSES, PIECE], dtype=tl.float32),)
    radial = tl.zeros([CLASSES], dtype=tl.float32)
    for first in range(0, num_rows, ROWS):
        row = first + tl.arange(0, ROWS)
        has_row = row < num_rows
        x_at = x + row.to(tl.int64)[:, None] * (PIECE * PIECES) + depth[None, :]
        x_tiles = ()
        t = tl.zeros([CLASSES, ROWS], dtype=tl.float32)
        for piece in tl.static_range(PIECES):
            x_tiles = x_tiles + (tl.load(x_at + piece * PIECE, mask=has_row[:, None], other=0.0),)
            t = dot(w_tiles[piece], tl.trans(x_tiles[piece]), t)
        z = t * norm[:, None]
        e = tl.where(z > limit, 0.0, tl.exp(z - shift) * norm[:, None])
        target = tl.load(positions + row, mask=has_row, other=-1)
        value = tl.load(values + row, mask=has_row, other=0.0)
        e = tl.where(column[:, None] == target[None, :], value[None, :], e)
        e = e * tl.load(weight + row, mask=has_row, other=0.0)[None, :]
        radial += tl.sum(e * t, axis=1)
        low = rounded(e, x.dtype.element_ty)
        new = ()
        for piece in tl.static_range(PIECES):
            new = new + (dot(low, x_tiles[piece], sums[piece]),)
        sums = new
    return sums, radial


@triton.jit(do_not_specialize=["first_row"])
def _descend(  # type: ignore[no-untyped-def]
    x,
    weight,
    positions,
    values,
    centers,
    shadow,
    momentum,
    momentum_scale,
    inverse_norm,
    sample,
    rates,
    keys,
    refused,
    num_rows,
    num_classes,
    first_row,
    limit,
    shift,
    PIECE: tl.constexpr,
    PIECES: tl.constexpr,
    ROWS: tl.constexpr,
    CLASSES: tl.constexpr,
    ROUNDS: tl.constexpr,
    COPIES: tl.constexpr,
    MOMENTUM: tl.constexpr,
    SAMPLED: tl.constexpr,
):
    if tl.load(refused) != 0:
        return
    column, has_class, stored, base, place = places(
        sample, tl.program_id(0), num_classes, CLASSES, PIECE, PIECES, SAMPLED
    )
    centers, shadow, momentum = centers + base, shadow + base, momentum + base
    inside = has_class[:, None]
    w_tiles = ()
    for piece in tl.static_range(PIECES):
        w_tiles = w_tiles + (tl.load(shadow + place + piece * PIECE, mask=inside, other=0.0),)
    norm = tl.load(inverse_norm + stored, mask=has_class, other=0.0)
    sums, radial = gradient(
        x, weight, positions, values, w_tiles, norm, column, num_rows, limit, shift, PIECE, PIECES, ROWS, CLASSES
    )
    radial = tl.load(rates + 2) - norm * norm * radial  # weight decay, less what points along w
    scale, old_scale = norm, norm
    if MOMENTUM == 3:  # its new scale is of the whole row, which is formed once more afterwards
        old_scale = tl.load(momentum_scale + stored, mask=has_class, other=0.0)
        most = tl.zeros([CLASSES], dtype=tl.float32)
        for piece in tl.static_range(PIECES):
            ahead = piece * PIECE + tl.load(refused, volatile=True)
            w = center_at(centers + ahead, place, inside, ROUNDS)
            held = held_at(momentum + ahead + place, old_scale, inside, MOMENTUM)
            move = sums[piece] + radial[:, None] * w + tl.load(rates + 1) * held
            most = tl.maximum(most, tl.max(tl.abs(move), axis=1))
        scale = most / 127
        tl.store(momentum_scale + stored, scale, mask=has_class)
        scale = tl.maximum(scale, SMALLEST)
    squares = tl.zeros([CLASSES], dtype=tl.float32)
    for piece in tl.static_range(PIECES):
        # A load that cannot be moved: without it all pieces are loaded at once, and do not fit the registers.
        ahead = piece * PIECE + tl.load(refused, volatile=True)
        w = center_at(centers + ahead, place, inside, ROUNDS)
        move = sums[piece] + radial[:, None] * w
        if MOMENTUM != 0:
            held = held_at(momentum + ahead + place, old_scale, inside, MOMENTUM)
            move += tl.load(rates + 1) * held
        if MOMENTUM == 3:
            # 1.5 * 2^23 added and taken away: to the nearest whole number, at a tie the even one.
            kept = (move / scale[:, None] + 12582912.0) - 12582912.0
            tl.store(momentum + ahead + place, kept.to(tl.int8), mask=inside)
        elif MOMENTUM != 0:
            tl.store(momentum + ahead + place, rounded(move, momentum.dtype.element_ty), mask=inside)
        w = w - tl.load(rates) * move
        row, dim = stored + first_row, piece * PIECE + tl.arange(0, PIECE)
        squares += store_centers(centers + ahead, shadow + ahead, place, inside, w, row, dim, keys, ROUNDS, COPIES)
    tl.store(inverse_norm + stored, 1.0 / tl.maximum(tl.sqrt(squares), 1e-12), mask=has_class)
