"""The two passes over blocks of class centers: neither [N, C] logits nor a [C, D] gradient ever exists.

With raw centers w, r = 1/|w| and unit embeddings x, a block's logits are z = s * (x @ w.T) * r. With the rows'
weights a = s/N * exp(shift - lse) and E = exp(z - shift), the gradient of the loss by a cosine is g = a E at
negatives, and for a target g = s/N * (p_t - 1) * f', which is a E with E = -f' * exp(lse_neg - shift). Then, because
d/dw = r (d/dw_hat - w_hat (w_hat . d/dw_hat)) and w_hat . d/dw_hat is the column sum of g * cos,

    dx  = a * sum over blocks of (E r) @ w
    m   = mu * m + (E r).T @ (a x) + (weight_decay - r^2 * colsum(g * cos)) w
    w   = w - lr * m

so a block is read twice a step, written once, and of its gradient only the tile E [N, n] is ever formed.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recognition.heads.products import Kind, accumulate_, multiply
from recognition.heads.sampling import Active, Block, Targets
from recognition.heads.state import CenterState, inverse_norms

# exp(z) and its sum over 1e10 classes fit float32 without a running maximum up to this scale. Pass 2 shifts by a
# constant that keeps both E and the rows' weights far from the smallest normal number.
_LARGEST_BOUNDED_SCALE = 64.0
_SHIFT = 16.0

# On 2 MiB of L2 a core, N = 128 and D = 512, 512 to 8,192 rows differ by 5 % in float32; in bf16 2,048 are 10 %
# faster than 512, whose products are too small. On CUDA it is a guess that keeps launches few; it was not measured.
_CACHE_BYTES = {"cpu": 12 << 20, "cuda": 200 << 20}

Sink = Callable[[Block, Tensor, Tensor, Tensor], None]
"""Takes (block, centers [n, D], E r [N, n], colsum(g * cos) [n])."""


@dataclass
class Descent:
    """What pass 2 needs of a step, per row of the global batch."""

    x_scaled: Tensor  # s * x  [N, D]
    weight: Tensor  # a  [N]
    target_value: Tensor  # E of the own class, times r when a class has one center  [N]
    row_shift: Tensor | None  # [N], or None where the constant does


@dataclass
class BlockLoop:
    """The passes over this rank's centers, and the buffers they share."""

    state: CenterState
    scale: float
    sub_centers: int
    threshold: float
    """Negatives with a cosine above this are left out; 0 keeps all."""
    products: Kind
    block_size: int | None
    """Classes per block; chosen when absent."""
    kernels: Any = None
    """The module fused_triton where a block's elementwise part can be one kernel."""
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_bounded(self) -> bool:
        """Whether exp(z) needs no running maximum: |z| is at most the scale."""
        return self.scale <= _LARGEST_BOUNDED_SCALE

    @property
    def _limit(self) -> float:
        return self.scale * self.threshold if self.threshold else math.inf

    def sum_negatives(self, x_scaled: Tensor, active: Active, targets: Targets) -> tuple[Tensor, Tensor]:
        """Pass 1: return per row the largest negative logit and the sum of exp(z - reference), both float64 [N].

        The reference is 0 when bounded, else the row's largest negative logit. Without negatives: a floor, and 0.
        """
        largest = x_scaled.new_full((len(x_scaled),), -2 * self.scale)
        total = torch.zeros(len(x_scaled), dtype=torch.float64, device=x_scaled.device)
        for block in active.blocks(self._classes_per_block(len(x_scaled))):
            if self.kernels is not None:
                self._fold_by_kernel_(x_scaled, block, targets, largest, total)
                continue
            z = self._negatives(x_scaled, block, targets)
            if self.is_bounded:
                torch.maximum(largest, z.amax(1), out=largest)
            else:
                before = largest.clone()
                torch.maximum(largest, z.amax(1), out=largest)
                total.mul_((before - largest).exp_())
                z.sub_(largest.unsqueeze(1))
            total.add_(z.exp_().sum(1))
        return largest.double(), total

    def _fold_by_kernel_(
        self, x_scaled: Tensor, block: Block, targets: Targets, largest: Tensor, total: Tensor
    ) -> None:
        t, norms = self._raw_logits(x_scaled, block)
        self.kernels.sum_negatives_(t, norms, targets.positions, largest, total, start=block.start, limit=self._limit)

    def nearest(self, x_scaled: Tensor, active: Active, targets: Targets) -> Tensor:
        """Return the largest negative logit of each class over the batch [C_r]: a product over all of them."""
        scores = x_scaled.new_empty(len(active))
        for block in active.blocks(self._classes_per_block(len(x_scaled))):
            torch.amax(self._negatives(x_scaled, block, targets), 0, out=scores[block.start : block.stop])
        return scores

    def _negatives(self, x_scaled: Tensor, block: Block, targets: Targets) -> Tensor:
        """Return z [N, n] with the rows' own classes and filtered negatives at -inf; keep the centers' norms."""
        t, norms = self._raw_logits(x_scaled, block)
        z = t.mul_(norms)
        if self.sub_centers > 1:
            z = z.view(len(z), -1, self.sub_centers).amax(2)
        if self.threshold:
            z.masked_fill_(z > self._limit, -torch.inf)
        targets.put_(z, block, -torch.inf)
        return z

    def _raw_logits(self, x_scaled: Tensor, block: Block) -> tuple[Tensor, Tensor]:
        """Return s * (x @ w.T) [N, n] of a block and its centers' inverse norms [n], which are kept for pass 2."""
        centers = self.state.read_centers(block.rows, self._buffer("centers", block.num_rows, x_scaled.shape[1]))
        norms = inverse_norms(centers)
        self.state.inverse_norm[block.rows] = norms
        return self._logits(x_scaled, centers), norms

    def _logits(self, x_scaled: Tensor, centers: Tensor) -> Tensor:
        """Return s * (x @ w.T) [N, n], not yet divided by the centers' lengths."""
        out = self._buffer("z", len(x_scaled), len(centers))
        return multiply(x_scaled, centers.T, out, self.products)

    def prepare(
        self, x_scaled: Tensor, *, lse_negatives: Tensor, lse: Tensor, derivative: Tensor, norms: Tensor
    ) -> Descent:
        """Return what pass 2 needs; all are per row of the batch, `norms` the inverse ones of the own centers."""
        shift = torch.full_like(lse, _SHIFT) if self.is_bounded else lse
        weight = (shift - lse).exp() * (self.scale / len(lse))
        value = -derivative * (lse_negatives - shift).exp() * norms
        kind = x_scaled.dtype
        return Descent(x_scaled, weight.to(kind), value.to(kind), None if self.is_bounded else lse.to(kind))

    def descend(
        self,
        descent: Descent,
        active: Active,
        targets: Targets,
        factor: Tensor,
        *,
        sink: Sink | None,
        want_dx: bool = True,
    ) -> Tensor:
        """Pass 2: return d loss / d x [N, D] of this rank's classes and hand each block to `sink`.

        What goes to the sink carries `factor`; dx does not, and is zero unless wanted.
        """
        x_scaled = descent.x_scaled
        dx = torch.zeros_like(x_scaled)
        column_weight = descent.weight * factor / self.scale
        for block in active.blocks(self._classes_per_block(len(x_scaled))):
            to_change = sink is not None and not self.updates_by_kernel(block)
            buffer = self._buffer("centers", block.num_rows, x_scaled.shape[1])
            centers = self.state.read_centers(block.rows, buffer, to_change=to_change)
            norms = self.state.inverse_norm[block.rows]
            t = self._logits(x_scaled, centers)
            if self.kernels is not None:
                e, dot = self._exponentials_by_kernel(t, norms, block, descent, targets, column_weight)
            else:
                e = self._exponentials(t, norms, block, descent, targets)
                dot = torch.mv(t.mul_(e).T, column_weight)
            if want_dx:
                accumulate_(dx, e, centers, self.products)
            if sink is not None:
                sink(block, centers, e, dot)
        return dx.mul_(descent.weight.unsqueeze(1))

    def updates_by_kernel(self, block: Block) -> bool:
        """Whether the step of this block is one kernel on rows in place."""
        return self.kernels is not None and self.state.is_plain and isinstance(block.rows, slice)

    def _exponentials_by_kernel(
        self, t: Tensor, norms: Tensor, block: Block, descent: Descent, targets: Targets, column_weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        e = self._buffer("e", t.shape[0], t.shape[1], dtype=torch.bfloat16 if self.products == "bf16" else None)
        dot = self.kernels.exponentials(
            t,
            norms,
            targets.positions,
            descent.target_value,
            column_weight,
            start=block.start,
            limit=self._limit,
            shift=_SHIFT,
            out=e,
        )
        return e, dot

    def _exponentials(self, t: Tensor, norms: Tensor, block: Block, descent: Descent, targets: Targets) -> Tensor:
        """Return E r [N, n] of a block, from t = s * (x @ w.T)."""
        e = self._buffer("e", *t.shape)
        if self.sub_centers > 1:
            return self._winners(t, norms, block, descent, targets, e)
        offset = norms.log()
        if descent.row_shift is None:
            offset.sub_(_SHIFT)
        if self.threshold:
            is_left_out = torch.mul(t, norms, out=e) > self._limit
            e.add_(offset).masked_fill_(is_left_out, -torch.inf)
        else:
            torch.addcmul(offset, t, norms, out=e)
        if descent.row_shift is not None:
            e.sub_(descent.row_shift.unsqueeze(1))
        e.exp_()
        targets.put_(e, block, descent.target_value)
        return e

    def _winners(
        self, t: Tensor, norms: Tensor, block: Block, descent: Descent, targets: Targets, out: Tensor
    ) -> Tensor:
        """Return E r where only the nearest sub-center of each class is not zero."""
        z, winner = torch.mul(t, norms, out=out).view(len(t), -1, self.sub_centers).max(2)
        if self.threshold:
            z.masked_fill_(z > self._limit, -torch.inf)
        z.sub_(_SHIFT if descent.row_shift is None else descent.row_shift.unsqueeze(1)).exp_()
        targets.put_(z, block, descent.target_value)
        z.mul_(norms.view(-1, self.sub_centers).expand(len(t), -1, -1).gather(2, winner.unsqueeze(2)).squeeze(2))
        out.zero_().view(len(t), -1, self.sub_centers).scatter_(2, winner.unsqueeze(2), z.unsqueeze(2))
        return out

    def _classes_per_block(self, batch: int) -> int:
        if self.block_size is not None:
            return self.block_size
        centers = self.state.centers
        return rows_per_block(batch, centers.shape[1], self.sub_centers, centers.device.type) // self.sub_centers

    def _buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return a [rows, columns] piece of a buffer that is allocated once for the largest."""
        held = self._buffers.get(name)
        if held is None or held.numel() < rows * columns:
            device = self.state.centers.device
            held = torch.empty(rows * columns, dtype=dtype or self.state.dtype, device=device)
            self._buffers[name] = held
        return held[: rows * columns].view(rows, columns)


def load_kernels(device: torch.device, dtype: torch.dtype, *, scale: float, sub_centers: int) -> Any:
    """Return the module of fused kernels where they apply and Triton is installed, else None."""
    applies = dtype == torch.float32 and scale <= _LARGEST_BOUNDED_SCALE and sub_centers == 1
    if device.type != "cuda" or not applies or importlib.util.find_spec("triton") is None:
        return None
    from recognition.heads import fused_triton  # it cannot be imported without Triton

    return fused_triton


def rows_per_block(batch: int, embedding_size: int, sub_centers: int, device: str) -> int:
    """Return how many centers make a block whose tiles, centers and momentum fill the cache of the device.

    A whole number of classes, and a power of two of them.
    """
    row_bytes = 4 * 2 * (batch + embedding_size)
    classes = max(1, _CACHE_BYTES[device] // (row_bytes * sub_centers))
    return sub_centers * 2 ** (classes.bit_length() - 1)


@dataclass
class StateUpdate:
    """A sink that takes the step of SGD with momentum and weight decay, as torch.optim.SGD does, block by block."""

    loop: BlockLoop
    x_weighted: Tensor  # a * factor * x  [N, D]
    lr: float
    momentum: float
    weight_decay: float
    step: int
    refused: Tensor | None
    """On CUDA, whether the step was refused (0-dim bool on the device); None where the host has already decided."""

    def __call__(self, block: Block, centers: Tensor, e: Tensor, dot: Tensor) -> None:
        state = self.loop.state
        buffer = self.loop._buffer("momentum", block.num_rows, centers.shape[1])
        radial = dot.mul_(state.inverse_norm[block.rows].square()).neg_().add_(self.weight_decay)
        if self.loop.updates_by_kernel(block):
            gradient = multiply(e.T, self.x_weighted, buffer, self.loop.products)
            self.loop.kernels.update_(
                centers,
                state.momentum[block.rows],  # type: ignore[index]
                gradient,
                radial,
                self.refused,
                lr=self.lr,
                keep=self.momentum,
            )
            return
        momentum = state.read_momentum(block.rows, buffer)
        keep = 0.0 if state.momentum is None else self.momentum
        accumulate_(momentum, e.T, self.x_weighted, self.loop.products, keep=keep)
        momentum.addcmul_(centers, radial.unsqueeze(1))
        centers.add_(momentum, alpha=-self.lr)
        state.write(block.rows, centers, momentum, step=self.step, keep=self.refused)


@dataclass
class GradientSink:
    """A sink that writes the centers' gradient into a tensor of their shape, for an optimizer to use."""

    loop: BlockLoop
    x_weighted: Tensor
    gradient: Tensor  # [C_r, D]

    def __call__(self, block: Block, centers: Tensor, e: Tensor, dot: Tensor) -> None:
        rows = self.gradient[block.rows]
        multiply(e.T, self.x_weighted, rows, self.loop.products)
        radial = dot.mul_(self.loop.state.inverse_norm[block.rows].square()).neg_()
        rows.addcmul_(centers, radial.unsqueeze(1))
