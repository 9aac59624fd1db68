"""The class centers of one rank and their momentum, in the formats they are stored in.

Rows are grouped by class: row (class - first class) * K + k is sub-center k. Reading a block gives float rows (a view
of the state where the format allows it, a filled buffer otherwise); writing it back is where formats round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from recognition.draws.hashing import mix
from recognition.draws.rounding import stochastic_bf16_bits
from recognition.errors import ConfigError

Rows: TypeAlias = slice | Tensor
CentersFormat = Literal["float32", "bf16"]
MomentumFormat = Literal["float32", "bf16", "int8", "none"]

_INITIAL_STD = 0.01
_INITIAL_BLOCK = 4096  # rows drawn from one generator, whatever the number of ranks
_SMALLEST_NORM = 1e-12


class CenterState(nn.Module):
    """What this rank keeps between steps, and the centers' inverse norms of the last pass 1.

    `trainable`: the centers are a parameter, for an optimizer that keeps a momentum of its own.
    """

    centers: Tensor
    momentum: Tensor | None
    momentum_scale: Tensor | None
    inverse_norm: Tensor

    def __init__(
        self,
        classes: range,
        embedding_size: int,
        *,
        sub_centers: int = 1,
        centers_format: CentersFormat = "float32",
        momentum_format: MomentumFormat = "float32",
        trainable: bool = False,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        super().__init__()
        self.rows = range(classes.start * sub_centers, classes.stop * sub_centers)
        self.seed = seed
        shape = (len(self.rows), embedding_size)
        centers = torch.empty(shape, dtype=torch.bfloat16 if centers_format == "bf16" else dtype, device=device)
        for rows, values in initial_rows(self.rows, embedding_size, seed):
            centers[rows.start - self.rows.start : rows.stop - self.rows.start] = values.to(device)
        if trainable:
            self.centers = nn.Parameter(centers)
            momentum_format = "none"
        else:
            self.register_buffer("centers", centers)
        momentum, scale = _empty_momentum(shape, momentum_format, dtype, device)
        self.register_buffer("momentum", momentum)
        self.register_buffer("momentum_scale", scale)
        self.register_buffer("inverse_norm", centers.new_empty(len(self.rows), dtype=dtype), persistent=False)
        self.changes_in_place = True
        """Whether rows may be changed before it is known that the step counts: where the host decides, it is known."""

    @property
    def dtype(self) -> torch.dtype:
        """The type that rows are computed with, whatever they are stored in."""
        return self.inverse_norm.dtype

    @property
    def is_plain(self) -> bool:
        """Whether centers and momentum are both stored as they are computed with."""
        return self.momentum is not None and self.momentum.dtype == self.centers.dtype == self.dtype

    def named(self) -> dict[str, Tensor]:
        """Return the stored tensors by name; the row is the first dimension of each."""
        tensors = {"centers": self.centers.detach(), "momentum": self.momentum, "momentum_scale": self.momentum_scale}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def check_cast(self, cast: Callable[[Tensor], Tensor]) -> None:
        """Raise ConfigError where `cast`, which .to(), .double() and their like apply, would change what is kept.

        float32 state may become float64 and come back; what is stored smaller is what its updates round to.
        """
        wide = (torch.float32, torch.float64)
        stores_small = any(tensor.dtype not in wide for tensor in self.named().values())
        for name, tensor in self.named().items():
            found = cast(torch.empty(0, dtype=tensor.dtype, device=tensor.device)).dtype
            if found != tensor.dtype and (stores_small or found not in wide):
                raise ConfigError(
                    f"head: its {name} would become {found} from {tensor.dtype}; expected only float32 and float64 "
                    "state to change, and only to each other; cast the backbone alone, or build the head with the "
                    "format you want (centers_format, momentum_format)"
                )

    def read_centers(self, rows: Rows, buffer: Tensor, *, to_change: bool = False) -> Tensor:
        """Return the centers of `rows` as floats: a view of the state where it may be one, else `buffer` filled."""
        if isinstance(rows, slice) and self.centers.dtype == self.dtype and (self.changes_in_place or not to_change):
            return self.centers.detach()[rows]
        return _read(self.centers.detach(), rows, buffer)

    def read_momentum(self, rows: Rows, buffer: Tensor) -> Tensor:
        """Return the momentum of `rows` as floats to be changed; without a stored momentum, rows of any content."""
        if self.momentum is None:
            return buffer[: _count(rows)]
        if isinstance(rows, slice) and self.momentum.dtype == self.dtype and self.changes_in_place:
            return self.momentum[rows]
        values = _read(self.momentum, rows, buffer)
        if self.momentum_scale is not None:
            values.mul_(self.momentum_scale[rows].unsqueeze(1))
        return values

    def write(self, rows: Rows, centers: Tensor, momentum: Tensor, *, step: int, refused: Tensor | None) -> None:
        """Store what `read_centers` and `read_momentum` gave and the step changed; `momentum` is destroyed.

        With `refused` (0-dim bool on the device) the rows stay as they are where it is true.
        """
        if self.centers.dtype == torch.bfloat16:
            _write(self.centers.view(torch.int16), rows, self._rounded(rows, centers, step), refused)
        elif not _is_view(centers, self.centers, rows):
            _write(self.centers, rows, centers, refused)
        if self.momentum is None:
            return
        if self.momentum_scale is not None:
            # Two reductions: on a CPU the infinity norm takes 27 times as long as both.
            scale = torch.maximum(momentum.amax(1), momentum.amin(1).neg_()).div_(127)
            _write(self.momentum_scale, rows, scale, refused)
            momentum.div_(scale.clamp_min(torch.finfo(scale.dtype).tiny).unsqueeze(1)).round_()
        if not _is_view(momentum, self.momentum, rows):
            _write(self.momentum, rows, momentum, refused)

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
        values = torch.randn(_INITIAL_BLOCK, embedding_size, generator=generator, dtype=torch.float32)
        inside = range(max(first, rows.start), min(first + _INITIAL_BLOCK, rows.stop))
        yield inside, values[inside.start - first : inside.stop - first].mul_(_INITIAL_STD)


def inverse_norms(centers: Tensor) -> Tensor:
    """Return 1 / |w| per row; of a row without length, a large finite number."""
    norms: Tensor = torch.linalg.vector_norm(centers, dim=1)
    return norms.clamp_min_(_SMALLEST_NORM).reciprocal_()


def _empty_momentum(
    shape: tuple[int, int], stored_as: MomentumFormat, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    if stored_as == "none":
        return None, None
    if stored_as == "int8":
        return torch.zeros(shape, dtype=torch.int8, device=device), torch.zeros(shape[0], dtype=dtype, device=device)
    stored = torch.bfloat16 if stored_as == "bf16" else dtype
    return torch.zeros(shape, dtype=stored, device=device), None


def _is_view(values: Tensor, stored: Tensor, rows: Rows) -> bool:
    # What is read of the state is of the same rows, or in a buffer. Tensors without memory have no pointer to compare.
    return isinstance(rows, slice) and bool(torch._C._is_alias_of(values, stored))  # type: ignore[attr-defined]


def _count(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _read(stored: Tensor, rows: Rows, buffer: Tensor) -> Tensor:
    values = buffer[: _count(rows)]
    if isinstance(rows, slice):
        return values.copy_(stored[rows])
    if stored.dtype == values.dtype:
        return torch.index_select(stored, 0, rows, out=values)
    return values.copy_(stored.index_select(0, rows))


def _write(stored: Tensor, rows: Rows, values: Tensor, refused: Tensor | None) -> None:
    if refused is not None:
        values = torch.where(refused, stored[rows], values)
    if isinstance(rows, slice):
        stored[rows].copy_(values)
    else:
        stored.index_copy_(0, rows, values.to(stored.dtype))
