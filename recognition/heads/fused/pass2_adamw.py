"""Pass 2 as one kernel with the step of AdamW (heads/adamw.py) at its end: both moments, and each row's own count.

Imported only where Triton is installed. The gradient is formed as pass2.py does. Moments are read, moved and rounded
as state.py does, so that the first one is rounded to the nearest, and the second one at random where it is kept small.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from recognition.heads.fused.pass1 import rounded
from recognition.heads.fused.pass2 import PIECE, SMALLEST, center_at, gradient, held_at, noise, places, store_centers
from recognition.heads.fused.shapes import OnChip
from recognition.heads.fused.stored import Numbers, Stored

KINDS = {torch.float32: 1, torch.bfloat16: 2, torch.int8: 3}
"""How moments are kept, by the type of the first one."""


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
    """Move all rows of `stored` that take part by the gradient of the batch, and their counts by one.

    Arguments are those of pass2.descend_.
    """
    second, momentum = stored.second, stored.momentum
    assert momentum is not None, "AdamW keeps a first moment"
    assert second is not None, "and a second one"
    count = len(stored.centers) if stored.sample is None else len(stored.sample)
    nothing = stored.centers
    _descend[(triton.cdiv(count, shape.classes),)](
        x,
        weight,
        positions,
        values,
        stored.centers.view(torch.int16) if stored.centers.dtype == torch.bfloat16 else stored.centers,
        stored.shadow,
        momentum,
        nothing if stored.momentum_scale is None else stored.momentum_scale,
        second.values.view(torch.int16) if second.values.dtype == torch.bfloat16 else second.values,
        nothing if second.scale is None else second.scale,
        second.updates,
        stored.inverse_norm,
        nothing if stored.sample is None else stored.sample,
        numbers.rates,
        numbers.corrections,
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
        MOMENTS=KINDS[momentum.dtype],
        SAMPLED=stored.sample is not None,
        num_warps=shape.warps,
        num_stages=shape.stages,
    )


@triton.jit
def _moved(  # type: ignore[no-untyped-def]
    w, total, radial, momentum_at, second_at, scale, second_scale, inside, rates, MOMENTS: tl.constexpr
):
    """Return both moments of a piece after the step, in float32."""
    g = total + radial[:, None] * w
    m = held_at(momentum_at, scale, inside, MOMENTS)
    if MOMENTS == 3:  # the root of it is kept
        v = tl.load(second_at, mask=inside, other=0).to(tl.float32) * second_scale[:, None]
        v = v * v
    else:
        v = center_at(second_at, 0, inside, MOMENTS == 2)
    m = m * tl.load(rates + 2) + g * tl.load(rates + 3)
    return m, v * tl.load(rates + 4) + g * g * tl.load(rates + 5)


@triton.jit
def _store_moments(  # type: ignore[no-untyped-def]
    momentum_at, second_at, inside, m, v, root, scale, second_scale, row, dim, keys, MOMENTS: tl.constexpr
):
    """Store both moments of a piece as they are kept; `root` is that of `v`."""
    if MOMENTS == 3:
        # 1.5 * 2^23 added and taken away: to the nearest whole number, at a tie the even one.
        kept = (m / scale[:, None] + 12582912.0) - 12582912.0
        tl.store(momentum_at, kept.to(tl.int8), mask=inside)
        level = tl.floor(root / second_scale[:, None] + noise(row, dim, keys).to(tl.float32) * 0.0000152587890625)
        level = tl.minimum(tl.maximum(level, (v > 0).to(tl.float32)), 255.0)
        tl.store(second_at, level.to(tl.uint8), mask=inside)
    else:
        tl.store(momentum_at, rounded(m, momentum_at.dtype.element_ty), mask=inside)
        if MOMENTS == 2:
            bits = (v.to(tl.int32, bitcast=True) + noise(row, dim, keys)) >> 16
            tl.store(second_at, bits.to(tl.int16), mask=inside)
        else:
            tl.store(second_at, v, mask=inside)


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
    second,
    second_scale,
    updates,
    inverse_norm,
    sample,
    rates,
    corrections,
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
    MOMENTS: tl.constexpr,
    SAMPLED: tl.constexpr,
):
    if tl.load(refused) != 0:
        return
    column, has_class, stored, base, place = places(
        sample, tl.program_id(0), num_classes, CLASSES, PIECE, PIECES, SAMPLED
    )
    w_tiles = ()
    for piece in tl.static_range(PIECES):
        w_tiles = w_tiles + (tl.load(shadow + base + place + piece * PIECE, mask=has_class[:, None], other=0.0),)
    norm = tl.load(inverse_norm + stored, mask=has_class, other=0.0)
    sums, radial = gradient(
        x, weight, positions, values, w_tiles, norm, column, num_rows, limit, shift, PIECE, PIECES, ROWS, CLASSES
    )
    radial = -norm * norm * radial  # what points along w
    # The program's number once more, with a zero that is not known before: places formed of it cannot be kept in
    # registers since before the loop over the batch, which needs all of them.
    _, has_class, stored, base, place = places(
        sample, tl.program_id(0) + tl.load(refused, volatile=True), num_classes, CLASSES, PIECE, PIECES, SAMPLED
    )
    centers, shadow, momentum, second = centers + base, shadow + base, momentum + base, second + base
    inside = has_class[:, None]
    count = tl.load(updates + stored, mask=has_class, other=0) + 1
    tl.debug_barrier()  # several threads hold a row's count: each has it before one of them stores it
    tl.store(updates + stored, count, mask=has_class)
    scale, root_scale, old, old_root = norm, norm, norm, norm
    if MOMENTS == 3:  # the new scales are of whole rows, which are formed once more afterwards
        old = tl.load(momentum_scale + stored, mask=has_class, other=0.0)
        old_root = tl.load(second_scale + stored, mask=has_class, other=0.0)
        most, most_second = tl.zeros([CLASSES], dtype=tl.float32), tl.zeros([CLASSES], dtype=tl.float32)
        for piece in tl.static_range(PIECES):
            ahead = piece * PIECE + tl.load(refused, volatile=True)
            w = center_at(centers + ahead, place, inside, ROUNDS)
            at, second_at = momentum + ahead + place, second + ahead + place
            m, v = _moved(w, sums[piece], radial, at, second_at, old, old_root, inside, rates, MOMENTS)
            most = tl.maximum(most, tl.max(tl.abs(m), axis=1))
            most_second = tl.maximum(most_second, tl.max(v, axis=1))
        scale, root_scale = most / 127, tl.maximum(tl.sqrt(most_second) / 255, SMALLEST)
        tl.store(momentum_scale + stored, scale, mask=has_class)
        tl.store(second_scale + stored, root_scale, mask=has_class)
        scale = tl.maximum(scale, SMALLEST)
    # beta^t as exp(t log beta), in float64: 1 - beta2^t is a thousandth in a row's first step.
    of_first = 1 - tl.exp(count.to(tl.float64) * tl.load(corrections))
    of_second = 1 - tl.exp(count.to(tl.float64) * tl.load(corrections + 1))
    factor = (of_first / tl.sqrt(of_second)).to(tl.float32)
    least = (of_first * tl.load(corrections + 2)).to(tl.float32)
    squares = tl.zeros([CLASSES], dtype=tl.float32)
    for piece in tl.static_range(PIECES):
        # A load that cannot be moved: without it all pieces are loaded at once, and do not fit the registers.
        ahead = piece * PIECE + tl.load(refused, volatile=True)
        w = center_at(centers + ahead, place, inside, ROUNDS)
        at, second_at = momentum + ahead + place, second + ahead + place
        m, v = _moved(w, sums[piece], radial, at, second_at, old, old_root, inside, rates, MOMENTS)
        root = tl.sqrt(v)
        row, dim = stored + first_row, piece * PIECE + tl.arange(0, PIECE)
        _store_moments(at, second_at, inside, m, v, root, scale, root_scale, row, dim, keys + 3, MOMENTS)
        w = w * tl.load(rates + 1) - tl.load(rates) * (m / (least[:, None] + root * factor[:, None]))
        squares += store_centers(centers + ahead, shadow + ahead, place, inside, w, row, dim, keys, ROUNDS, COPIES)
    tl.store(inverse_norm + stored, 1.0 / tl.maximum(tl.sqrt(squares), 1e-12), mask=has_class)
