"""The class centers of one rank and what their optimizer keeps of them, in the formats they are stored in.

SGD keeps a momentum. AdamW's first moment is in its place, and beside it are the second one and, of each row, how
often it was moved.

Rows are grouped by class: row (class - first class) * K + k is sub-center k. Reading a block gives float rows (a view
of the state where the format allows it, a filled buffer otherwise); writing it back is where formats round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, TypeAlias

import torch
from torch import Tensor, nn

from recognition.draws.hashing import mix
from recognition.draws.rounding import stochastic_bf16_bits, stochastic_levels_
from recognition.errors import ConfigError
from recognition.heads.coasting import Coast, move_, move_both_

Rows: TypeAlias = slice | Tensor
OptimizerKind = Literal["sgd", "adamw"]
CentersFormat = Literal["float32", "bf16"]
MomentumFormat = Literal["float32", "bf16", "int8", "none"]

_INITIAL_STD = 0.01
_INITIAL_BLOCK = 4096  # rows drawn from one generator, whatever the number of ranks
_SMALLEST_NORM = 1e-12
_OF_ADAMW = ("second_moment", "second_moment_scale", "updates")


class CenterState(nn.Module):
    """What this rank keeps between steps, and the centers' inverse norms of the last pass 1.

    `trainable`: the centers are a parameter, for an optimizer that keeps a momentum of its own. `has_bias`: a row has
    one number more, the bias of its class, which starts at 0. `coasts`: rows that a step leaves out move on
    (coasting.py), so what is stored may be behind, and what is read never is.
    """

    centers: Tensor
    momentum: Tensor | None
    momentum_scale: Tensor | None
    second_moment: Tensor | None
    """AdamW's: the mean of the squared gradients; in "int8" the square root of it, as whole numbers up to 255."""
    second_moment_scale: Tensor | None
    updates: Tensor | None
    """AdamW's: how often each row was moved [rows] int32, which its bias correction follows."""
    inverse_norm: Tensor

    def __init__(
        self,
        classes: range,
        embedding_size: int,
        *,
        has_bias: bool = False,
        sub_centers: int = 1,
        centers_format: CentersFormat = "float32",
        momentum_format: MomentumFormat = "float32",
        trainable: bool = False,
        coasts: bool = False,
        device: torch.device,
        dtype: torch.dtype,
        seed: int,
    ) -> None:
        super().__init__()
        self.rows = range(classes.start * sub_centers, classes.stop * sub_centers)
        self.seed = seed
        shape = (len(self.rows), embedding_size + has_bias)
        centers = torch.empty(shape, dtype=torch.bfloat16 if centers_format == "bf16" else dtype, device=device)
        if has_bias:
            centers[:, embedding_size] = 0.0
        for rows, values in initial_rows(self.rows, embedding_size, seed):
            own = slice(rows.start - self.rows.start, rows.stop - self.rows.start)
            centers[own, :embedding_size] = values.to(device)
        if trainable:
            self.centers = nn.Parameter(centers)
            momentum_format = "none"
        else:
            self.register_buffer("centers", centers)
        momentum, scale = _empty_moment(shape, momentum_format, dtype, device, small=torch.int8)
        self.register_buffer("momentum", momentum)
        self.register_buffer("momentum_scale", scale)
        self.momentum_format: MomentumFormat = momentum_format
        for name in _OF_ADAMW:
            self.register_buffer(name, None)
        self.register_buffer("inverse_norm", centers.new_empty(len(self.rows), dtype=dtype), persistent=False)
        self.coast = Coast(self.rows, device) if coasts else None
        self.changes_in_place = True
        """Whether rows may be changed before it is known that the step counts: where the host decides, it is known."""

    @property
    def dtype(self) -> torch.dtype:
        """The type that rows are computed with, whatever they are stored in."""
        return self.inverse_norm.dtype

    @property
    def kind(self) -> OptimizerKind:
        """Whose state this is."""
        return "sgd" if self.second_moment is None else "adamw"

    @property
    def is_plain(self) -> bool:
        """Whether what SGD keeps, and that alone, is here, and stored as it is computed with."""
        is_whole = self.momentum is not None and self.momentum.dtype == self.centers.dtype == self.dtype
        return is_whole and self.kind == "sgd"

    def serve(self, kind: OptimizerKind) -> None:
        """Keep what an optimizer of `kind` needs of each row. Another kind than so far begins with moments of zero."""
        if kind == self.kind:
            return
        for moment in (self.momentum, self.momentum_scale):
            if moment is not None:
                moment.zero_()
        self.second_moment = self.second_moment_scale = self.updates = None
        if kind == "adamw":
            shape, device = (len(self.rows), self.centers.shape[1]), self.centers.device
            second, scale = _empty_moment(shape, self.momentum_format, self.dtype, device, small=torch.uint8)
            self.second_moment, self.second_moment_scale = second, scale
            self.updates = torch.zeros(len(self.rows), dtype=torch.int32, device=device)

    def named(self) -> dict[str, Tensor]:
        """Return the stored tensors by name; the row is the first dimension of each."""
        found = {"centers": self.centers.detach(), "momentum": self.momentum, "momentum_scale": self.momentum_scale}
        found |= {name: getattr(self, name) for name in _OF_ADAMW}
        return {name: tensor for name, tensor in found.items() if tensor is not None}

    def stored(self) -> dict[str, Tensor]:
        """Return all that is kept of rows, by name: with `named` how far each has come, where they coast."""
        return self.named() if self.coast is None else {**self.named(), "reached": self.coast.reached}

    def check_cast(self, cast: Callable[[Tensor], Tensor]) -> None:
        """Raise ConfigError where `cast`, which .to(), .double() and their like apply, would change what is kept.

        float32 state may become float64 and come back; what is stored smaller is what its updates round to.
        """
        wide = (torch.float32, torch.float64)
        stored = {name: tensor for name, tensor in self.named().items() if name != "updates"}
        stores_small = any(tensor.dtype not in wide for tensor in stored.values())
        for name, tensor in stored.items():
            found = cast(torch.empty(0, dtype=tensor.dtype, device=tensor.device)).dtype
            if found != tensor.dtype and (stores_small or found not in wide):
                raise ConfigError(
                    f"head: its {name} would become {found} from {tensor.dtype}; expected only float32 and float64 "
                    "state to change, and only to each other; cast the backbone alone, or build the head with the "
                    "format you want (centers_format, momentum_format)"
                )

    def read_centers(self, rows: Rows, buffer: Tensor, *, to_change: bool = False) -> Tensor:
        """Return the centers of `rows` as floats: a view of the state where it may be one, else `buffer` filled."""
        if self.coast is not None:
            return self._read_coasting(rows, buffer, None)
        if isinstance(rows, slice) and self.centers.dtype == self.dtype and (self.changes_in_place or not to_change):
            return self.centers.detach()[rows]
        return _read(self.centers.detach(), rows, buffer)

    def read_momentum(self, rows: Rows, buffer: Tensor) -> Tensor:
        """Return the momentum of `rows` as floats to be changed; without a stored momentum, rows of any content.

        Of rows that coast it is as old as what is stored: `read_both` brings it up to now.
        """
        if self.momentum is None:
            return buffer[: _count(rows)]
        return self._read_moment(self.momentum, self.momentum_scale, rows, buffer)

    def read_second(self, rows: Rows, buffer: Tensor) -> tuple[Tensor, Tensor]:
        """Return the second moment of `rows` as floats to be changed, and how often each of them was moved."""
        assert self.second_moment is not None, "AdamW keeps a second moment"
        assert self.updates is not None, "and counts"
        values = self._read_moment(self.second_moment, self.second_moment_scale, rows, buffer)
        return values if self.second_moment_scale is None else values.square_(), self.updates[rows]

    def _read_moment(self, stored: Tensor, scale: Tensor | None, rows: Rows, buffer: Tensor) -> Tensor:
        if isinstance(rows, slice) and stored.dtype == self.dtype and self.changes_in_place:
            return stored[rows]
        return _copy_moment(stored, scale, rows, buffer)

    def current(self) -> Tensor:
        """Return a copy of all centers as they are by now."""
        copy = torch.empty(self.centers.shape, dtype=self.dtype, device=self.centers.device)
        for start in range(0, len(copy), _INITIAL_BLOCK):
            rows = slice(start, min(start + _INITIAL_BLOCK, len(copy)))
            copy[rows] = self.read_centers(rows, copy[rows])
        return copy

    def read_both(self, rows: Rows, centers: Tensor, momentum: Tensor) -> tuple[Tensor, Tensor]:
        """Fill two buffers with centers and momentum of `rows` that coast, up to now and to be changed."""
        return self._read_coasting(rows, centers, momentum), momentum[: _count(rows)]

    def _read_coasting(self, rows: Rows, centers: Tensor, momentum: Tensor | None) -> Tensor:
        """Fill `centers`, and `momentum` where it is given, with what `rows` are by now."""
        assert self.coast is not None
        w_kD, missed = centers[: _count(rows)], self.coast.since(rows, self.dtype)
        spare_kD = self.coast.spare(w_kD)
        if self.momentum is None:
            _read(self.centers.detach(), rows, w_kD).addcmul_(w_kD, missed[:, :1])
        elif momentum is None:
            m_kD = _copy_moment(self.momentum, self.momentum_scale, rows, spare_kD)
            move_(_read(self.centers.detach(), rows, w_kD), m_kD, missed, w_kD)
        else:
            m_kD = _copy_moment(self.momentum, self.momentum_scale, rows, momentum)
            move_both_(_read(self.centers.detach(), rows, spare_kD), m_kD, missed, w_kD)
        return w_kD

    def follow_(
        self, rows: Tensor, *, lr: float, momentum: float, weight_decay: float, step: int, refused: Tensor | None
    ) -> None:
        """After SGD has moved `rows` in a step: note it, let the other rows be a step behind, write those in turn.

        Nothing happens where the step is `refused`.
        """
        assert self.coast is not None
        mu = 0.0 if self.momentum is None else momentum
        self.coast.advance_(lr, mu, weight_decay, refused)
        self.coast.mark_(rows, refused)
        if len(self.rows):
            self.catch_up_(*self.coast.due(refused), step=step)

    def catch_up_(self, rows: Tensor, skipped: Tensor | None = None, *, step: int) -> None:
        """Store of `rows` (distinct) what they are by now, except where `skipped` (one per row)."""
        if self.coast is None:
            return
        buffers = [torch.empty(len(rows), self.centers.shape[1], dtype=self.dtype, device=rows.device) for _ in "wm"]
        self.write(rows, *self.read_both(rows, *buffers), step=step, refused=skipped)
        self.coast.mark_(rows, skipped)

    def write(self, rows: Rows, centers: Tensor, momentum: Tensor, *, step: int, refused: Tensor | None) -> None:
        """Store what `read_centers` and `read_momentum` gave and the step changed; `momentum` is destroyed.

        With `refused` (bool on the device, 0-dim or one per row) the rows stay as they are where it is true.
        """
        if self.centers.dtype == torch.bfloat16:
            keys, salt = self._draw(rows, step)
            bits = stochastic_bf16_bits(centers.float(), row_keys=keys, salt=salt)
            _write(self.centers.view(torch.int16), rows, bits, refused)
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

    def write_second(self, rows: Rows, second: Tensor, updates: Tensor, *, step: int, refused: Tensor | None) -> None:
        """Store what `read_second` gave and the step changed, as `write` does; `second` is destroyed.

        Both small formats round at random: an increment is a thousandth of what is there, and the nearest value would
        be the old one for ever. In int8 what is not zero stays at least one level, since a first moment over a second
        one of zero is no step.
        """
        assert self.second_moment is not None, "AdamW keeps a second moment"
        assert self.updates is not None, "and counts"
        _write(self.updates, rows, updates, refused)
        if self.second_moment.dtype == torch.bfloat16:
            keys, salt = self._draw(rows, ~step)
            bits = stochastic_bf16_bits(second.float(), row_keys=keys, salt=salt)
            _write(self.second_moment.view(torch.int16), rows, bits, refused)
            return
        if self.second_moment_scale is not None:
            scale = second.sqrt_().amax(1).div_(255).clamp_min_(torch.finfo(second.dtype).tiny)
            _write(self.second_moment_scale, rows, scale, refused)
            keys, salt = self._draw(rows, ~step)
            second.div_(scale.unsqueeze(1))
            stochastic_levels_(second, row_keys=keys, salt=salt, highest=255)
        if not _is_view(second, self.second_moment, rows):
            _write(self.second_moment, rows, second, refused)

    def _draw(self, rows: Rows, number: int) -> tuple[Tensor, int]:
        """Return the random numbers that `rows` are rounded by: one of each, and one for the columns."""
        device = self.centers.device
        local = torch.arange(rows.start, rows.stop, device=device) if isinstance(rows, slice) else rows
        return mix(local + self.rows.start, self.seed, number), self.seed ^ number


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


def _empty_moment(
    shape: tuple[int, int], stored_as: MomentumFormat, dtype: torch.dtype, device: torch.device, *, small: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """Return a moment of zeros, and the scales of its rows where it is kept in a byte, of type `small`."""
    if stored_as == "none":
        return None, None
    if stored_as == "int8":
        return torch.zeros(shape, dtype=small, device=device), torch.zeros(shape[0], dtype=dtype, device=device)
    stored = torch.bfloat16 if stored_as == "bf16" else dtype
    return torch.zeros(shape, dtype=stored, device=device), None


def _is_view(values: Tensor, stored: Tensor, rows: Rows) -> bool:
    # What is read of the state is of the same rows, or in a buffer. Tensors without memory have no pointer to compare.
    return isinstance(rows, slice) and bool(torch._C._is_alias_of(values, stored))  # type: ignore[attr-defined]


def _count(rows: Rows) -> int:
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def _copy_moment(stored: Tensor, scale: Tensor | None, rows: Rows, buffer: Tensor) -> Tensor:
    values = _read(stored, rows, buffer)
    return values if scale is None else values.mul_(scale[rows].unsqueeze(1))


def _read(stored: Tensor, rows: Rows, buffer: Tensor) -> Tensor:
    values = buffer[: _count(rows)]
    if isinstance(rows, slice):
        return values.copy_(stored[rows])
    if stored.dtype == values.dtype:
        return torch.index_select(stored, 0, rows, out=values)
    return values.copy_(stored.index_select(0, rows))


def _write(stored: Tensor, rows: Rows, values: Tensor, refused: Tensor | None) -> None:
    if refused is not None:
        of_rows = refused.view(-1, *[1] * (values.ndim - 1))
        values = torch.where(of_rows, stored[rows], values)
    if isinstance(rows, slice):
        stored[rows].copy_(values)
    else:
        stored.index_copy_(0, rows, values.to(stored.dtype))
