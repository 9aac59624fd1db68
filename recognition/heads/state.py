"""The class centers of one rank and their momentum, in the formats they are stored in.

Rows are grouped by class: row (class - first class) * K + k is sub-center k. Reading a block gives float rows (a view
of the state where the format allows it, a filled buffer otherwise); writing it back is where formats round.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import torch
from torch import Tensor

from recognition.config.schema import HeadConfig
from recognition.draws.hashing import mix
from recognition.draws.rounding import stochastic_bf16_bits

Rows: TypeAlias = slice | Tensor

_INITIAL_STD = 0.01
_INITIAL_BLOCK = 4096  # rows drawn from one generator, whatever the number of ranks
_SMALLEST_NORM = 1e-12


class CenterState:
    """What this rank keeps between steps, and the centers' inverse norms of the last pass 1."""

    def __init__(
        self,
        classes: range,
        embedding_size: int,
        *,
        config: HeadConfig,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        per_class = config.sub_centers
        self.rows = range(classes.start * per_class, classes.stop * per_class)
        self.dtype = dtype
        self.seed = seed
        shape = (len(self.rows), embedding_size)
        stored = torch.bfloat16 if config.centers_format == "bf16" else dtype
        self.centers = torch.empty(shape, dtype=stored, device=device)
        self.momentum, self.momentum_scale = _empty_momentum(shape, config, dtype, device)
        self.inverse_norm = torch.empty(len(self.rows), dtype=dtype, device=device)
        # On CUDA the decision to refuse stays on the device, so nothing there may be changed in place before it is
        # known.
        self._changes_in_place = device.type == "cpu"
        for rows, values in initial_rows(self.rows, embedding_size, seed):
            self.centers[rows.start - self.rows.start : rows.stop - self.rows.start] = values.to(device)

    @property
    def is_plain(self) -> bool:
        """Whether centers and momentum are both stored as they are computed with."""
        return self.momentum is not None and self.momentum.dtype == self.centers.dtype == self.dtype

    def named(self) -> dict[str, Tensor]:
        """Return the stored tensors by name; the row is the first dimension of each."""
        tensors = {"centers": self.centers, "momentum": self.momentum, "momentum_scale": self.momentum_scale}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def read_centers(self, rows: Rows, buffer: Tensor, *, to_change: bool = False) -> Tensor:
        """Return the centers of `rows` as floats: a view of the state where it may be one, else `buffer` filled."""
        if isinstance(rows, slice) and self.centers.dtype == self.dtype and (self._changes_in_place or not to_change):
            return self.centers[rows]
        return _read(self.centers, rows, buffer)

    def read_momentum(self, rows: Rows, buffer: Tensor) -> Tensor:
        """Return the momentum of `rows` as floats to be changed; without a stored momentum, rows of any content."""
        if self.momentum is None:
            return buffer[: _count(rows)]
        if isinstance(rows, slice) and self.momentum.dtype == self.dtype and self._changes_in_place:
            return self.momentum[rows]
        values = _read(self.momentum, rows, buffer)
        if self.momentum_scale is not None:
            values.mul_(self.momentum_scale[rows].unsqueeze(1))
        return values

    def write(self, rows: Rows, centers: Tensor, momentum: Tensor, *, step: int, keep: Tensor | None) -> None:
        """Store what `read_centers` and `read_momentum` gave and the step changed; `momentum` is destroyed.

        With `keep` (0-dim bool on the device) the rows stay as they are where it is true.
        """
        if self.centers.dtype == torch.bfloat16:
            _write(self.centers.view(torch.int16), rows, self._rounded(rows, centers, step), keep)
        elif not _is_view(centers, self.centers, rows):
            _write(self.centers, rows, centers, keep)
        if self.momentum is None:
            return
        if self.momentum_scale is not None:
            # Two reductions: on a CPU the infinity norm takes 27 times as long as both.
            scale = torch.maximum(momentum.amax(1), momentum.amin(1).neg_()).div_(127)
            _write(self.momentum_scale, rows, scale, keep)
            momentum.div_(scale.clamp_min(torch.finfo(scale.dtype).tiny).unsqueeze(1)).round_()
        if not _is_view(momentum, self.momentum, rows):
            _write(self.momentum, rows, momentum, keep)

    def _rounded(self, rows: Rows, centers: Tensor, step: int) -> Tensor:
        local = torch.arange(rows.start, rows.stop, device=centers.device) if isinstance(rows, slice) else rows
        return stochastic_bf16_bits(
            centers.float(), row_keys=mix(local + self.rows.start, self.seed, step), salt=self.seed ^ step
        )


def initial_rows(rows: range, embedding_size: int, seed: int) -> Iterator[tuple[range, Tensor]]:
    """Yield (global rows, their first values): normal(0, 0.01), a function of the seed and the global row alone."""
    generator = torch.Generator()
    for first in range(rows.start - rows.start % _INITIAL_BLOCK, rows.stop, _INITIAL_BLOCK):
        generator.manual_seed(int(mix(torch.tensor(first), seed, -1)))
        values = torch.randn(_INITIAL_BLOCK, embedding_size, generator=generator).mul_(_INITIAL_STD)
        inside = range(max(first, rows.start), min(first + _INITIAL_BLOCK, rows.stop))
        yield inside, values[inside.start - first : inside.stop - first]


def inverse_norms(centers: Tensor) -> Tensor:
    """Return 1 / |w| per row; of a row without length, a large finite number."""
    return torch.linalg.vector_norm(centers, dim=1).clamp_min_(_SMALLEST_NORM).reciprocal_()


def _empty_momentum(
    shape: tuple[int, int], config: HeadConfig, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if config.momentum_format == "none" or config.update == "autograd":
        return None, None
    if config.momentum_format == "int8":
        return torch.zeros(shape, dtype=torch.int8, device=device), torch.zeros(shape[0], dtype=dtype, device=device)
    stored = torch.bfloat16 if config.momentum_format == "bf16" else dtype
    return torch.zeros(shape, dtype=stored, device=device), None


def _is_view(values: Tensor, stored: Tensor, rows: Rows) -> bool:
    return isinstance(rows, slice) and values.data_ptr() == stored[rows].data_ptr()


def _count(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _read(stored: Tensor, rows: Rows, buffer: Tensor) -> Tensor:
    values = buffer[: _count(rows)]
    if isinstance(rows, slice):
        return values.copy_(stored[rows])
    if stored.dtype == values.dtype:
        return torch.index_select(stored, 0, rows, out=values)
    return values.copy_(stored.index_select(0, rows))


def _write(stored: Tensor, rows: Rows, values: Tensor, keep: Tensor | None) -> None:
    if keep is not None:
        values = torch.where(keep, stored[rows], values)
    if isinstance(rows, slice):
        stored[rows].copy_(values)
    else:
        stored.index_copy_(0, rows, values.to(stored.dtype))
