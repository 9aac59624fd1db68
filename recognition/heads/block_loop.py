"""The two passes over blocks of class centers: neither [N, C] logits nor a [C, D] gradient ever exists.

With raw centers w, r = 1/|w| and unit embeddings x, a block's logits are z = s * (x @ w.T) * r. E = exp(z - shift) at
negatives, and at a row's own class t, E_t = -f' * exp(lse_neg - shift); with the rows' weights
a = s/N * exp(shift - lse), the gradient of the loss by any cosine is then g = a E. Because
d/dw = r (d/dw_hat - w_hat (w_hat . d/dw_hat)) and w_hat . d/dw_hat is the column sum of g * cos,

    pass 1:  total     += rowsum(E)                          negatives only
             numerator += (E r) @ w                          negatives only
    between: dx         = a * (numerator + E_t r_t w_t)      once lse is known; the target's term on its owner
    pass 2:  m          = mu * m + (E r).T @ (a x) + (weight_decay - r^2 * colsum(g * cos)) w
             w          = w - lr m

Only a and E_t depend on the other ranks, so dx is complete after pass 1 and one exchange. Pass 2 needs nothing until
the optimizer steps. Of a block's gradient only the tile E [N, n] is ever formed.

Shape suffixes: N rows of the global batch, D embedding size, n classes of a block, K centers a class, k = n K centers.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from recognition.heads.margins import Margin, OwnRows, State
from recognition.heads.products import Kind, accumulate_, multiply
from recognition.heads.sampling import Active, Block, Targets
from recognition.heads.state import CenterState, inverse_norms

logger = logging.getLogger(__name__)

# exp(z - 16) and its sum over 1e10 classes fit float32 without a running maximum up to this |z|, and both E and the
# rows' weights stay far from the smallest normal number.
_LARGEST_BOUNDED = 64.0
SHIFT = 16.0

# On 2 MiB of L2 a core, N = 128 and D = 512, 512 to 8,192 rows differ by 5 % in float32; in bf16 2,048 are 10 %
# faster than 512, whose products are too small. On CUDA it is a guess that keeps launches few; it was not measured.
_CACHE_BYTES = {"cpu": 12 << 20, "cuda": 200 << 20}


@dataclass(frozen=True)
class Part:
    """The rows of one forward among those of a step, and what its margin saw."""

    rows: slice
    own: OwnRows
    margin_state: State
    member: Tensor | None = None
    """Where the step's classes are more than this forward sampled: which of them it did [active classes] bool."""
    weight: Tensor | None = None
    """How often each of the step's classes counts in this forward's sums [active classes]; None: once."""


@dataclass(frozen=True)
class Sums:
    """What pass 1 returns, per row of the batch over this rank's negatives."""

    largest_N: Tensor
    """The largest z, float64; without negatives a floor below any."""
    total_N: Tensor
    """The sum of exp(z - reference), float64. The reference is SHIFT, or the row's largest z where that is kept."""
    numerator_ND: Tensor | None
    """The sum of exp(z - reference) dz/dcos r w, where it was asked for."""


@dataclass(frozen=True)
class Descent:
    """What pass 2 needs of a step: the rows of all its forwards, one after another."""

    x_ND: Tensor
    weight_N: Tensor
    """a, times what backward was given."""
    target_value_N: Tensor
    """E_t; times r_t where a tile's column is one center and no margin bends it."""
    row_shift_N: Tensor | None
    """What z is shifted by, or None: SHIFT."""
    active: Active
    targets: Targets
    parts: list[Part]


class Rule(Protocol):
    """What is done with a block's gradient (E r).T @ (a x) - r^2 colsum(g cos) w, which it forms itself."""

    def apply_(
        self, loop: BlockLoop, block: Block, w_kD: Tensor, e_Nk: Tensor, dot_k: Tensor, weighted_ND: Tensor
    ) -> None: ...


@dataclass
class BlockLoop:
    """The passes over this rank's centers, and the buffers they share."""

    state: CenterState
    margin: Margin
    scale: float
    sub_centers: int = 1
    threshold: float = 0.0
    """Negatives with a cosine above this are left out; 0 keeps all."""
    products: Kind = "float32"
    block_size: int | None = None
    """Classes per block; chosen when absent."""
    kernels: Any = None
    """The module fused_triton where a block's elementwise part is one kernel."""
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def is_bounded(self) -> bool:
        """Whether exp(z - SHIFT) needs no running maximum."""
        return self.scale * self.margin.largest <= _LARGEST_BOUNDED

    @property
    def is_plain(self) -> bool:
        """Whether a tile's column is one center and its logit s cos: then dz/dcos r is r."""
        return self.sub_centers == 1 and not self.margin.bends_negatives

    def first_pass(
        self, x_ND: Tensor, active: Active, targets: Targets, part: Part | None, *, want_numerator: bool
    ) -> Sums:
        """Pass 1: total += rowsum(E) and numerator += (E r) @ w over the negatives of this rank's active classes."""
        xs_ND = x_ND * self.scale
        offset = SHIFT if self.is_bounded else 0.0  # z is kept less this; where it is 0, less its running maximum
        largest_N = x_ND.new_full((len(x_ND),), -2 * self.scale * self.margin.largest - offset)
        total_N = torch.zeros(len(x_ND), dtype=torch.float64, device=x_ND.device)
        numerator_ND = torch.zeros_like(x_ND)
        for block in active.blocks(self.classes_per_block(len(x_ND))):
            w_kD = self.state.read_centers(block.rows, self.buffer("centers", block.num_rows, x_ND.shape[1]))
            r_k = inverse_norms(w_kD)
            self.state.inverse_norm[block.rows] = r_k  # for pass 2
            t_Nk = multiply(xs_ND, w_kD.T, self.buffer("z", len(x_ND), len(w_kD)), self.products)
            if self.kernels is not None and active.weight is None:
                er_Nk = self._fold_by_kernel_(t_Nk, r_k, block, targets, largest_N, total_N)
            else:
                z_Nn, slope_Nn, winner_Nn = self._negatives(t_Nk, r_k, block, targets, part, offset)
                before_N = largest_N
                largest_N = torch.maximum(before_N, z_Nn.amax(1))
                if not self.is_bounded:
                    rescale_N = (before_N - largest_N).exp_()
                    total_N.mul_(rescale_N)
                    numerator_ND.mul_(rescale_N.unsqueeze(1))
                    z_Nn.sub_(largest_N.unsqueeze(1))
                e_Nn = z_Nn.exp_()
                if active.weight is not None:  # exp(z + log(1 / q)): the largest z stays a cosine's
                    e_Nn.mul_(active.weight[block.start : block.stop])
                total_N.add_(e_Nn.sum(1))
                er_Nk = self._per_center(e_Nn, slope_Nn, winner_Nn, r_k) if want_numerator else e_Nn
            if want_numerator:
                accumulate_(numerator_ND, er_Nk, w_kD, self.products)
        return Sums(largest_N.double() + offset, total_N, numerator_ND if want_numerator else None)

    def second_pass(self, descent: Descent, rule: Rule) -> None:
        """Pass 2: recompute E r of every block, now with the own classes in it, and let `rule` move the block."""
        xs_ND = descent.x_ND * self.scale
        weighted_ND = descent.x_ND * descent.weight_N.unsqueeze(1)
        column_weight_N = descent.weight_N / self.scale  # g cos = a E z / s
        is_even = all(part.member is None and part.weight is None for part in descent.parts)
        by_kernel = self.kernels is not None and is_even
        for block in descent.active.blocks(self.classes_per_block(len(xs_ND))):
            buffer = self.buffer("centers", block.num_rows, xs_ND.shape[1])
            if self.state.coast is not None:  # the rule finds the momentum in its buffer
                w_kD, _ = self.state.read_both(block.rows, buffer, self.buffer("momentum", *buffer.shape))
            else:
                w_kD = self.state.read_centers(block.rows, buffer, to_change=not self.updates_by_kernel(block))
            r_k = self.state.inverse_norm[block.rows]
            t_Nk = multiply(xs_ND, w_kD.T, self.buffer("z", len(xs_ND), len(w_kD)), self.products)
            if by_kernel:
                er_Nk, dot_k = self._exponentials_by_kernel(t_Nk, r_k, block, descent, column_weight_N)
            else:
                er_Nk = self._exponentials(t_Nk, r_k, block, descent)
                dot_k = torch.mv(t_Nk.mul_(er_Nk).T, column_weight_N)
            rule.apply_(self, block, w_kD, er_Nk, dot_k, weighted_ND)

    def nearest(self, x_ND: Tensor, active: Active, targets: Targets) -> Tensor:
        """Return the largest negative logit of each class over the batch [C_r]: a product over all of them."""
        xs_ND = x_ND * self.scale
        scores = x_ND.new_empty(len(active))
        for block in active.blocks(self.classes_per_block(len(x_ND))):
            w_kD = self.state.read_centers(block.rows, self.buffer("centers", block.num_rows, x_ND.shape[1]))
            t_Nk = multiply(xs_ND, w_kD.T, self.buffer("z", len(x_ND), len(w_kD)), self.products)
            z_Nn, _ = self._nearest_center(t_Nk.mul_(inverse_norms(w_kD)))
            if self.threshold:
                z_Nn.masked_fill_(z_Nn > self._limit, -torch.inf)
            targets.put_(z_Nn, block, -torch.inf)
            torch.amax(z_Nn, 0, out=scores[block.start : block.stop])
        return scores

    def updates_by_kernel(self, block: Block) -> bool:
        """Whether the step of this block is one kernel on rows in place."""
        return self.kernels is not None and self.state.is_plain and isinstance(block.rows, slice)

    def classes_per_block(self, batch: int) -> int:
        """Return the classes of a block."""
        if self.block_size is not None:
            return self.block_size
        centers = self.state.centers
        return rows_per_block(batch, centers.shape[1], self.sub_centers, centers.device.type) // self.sub_centers

    def buffer(self, name: str, rows: int, columns: int, dtype: torch.dtype | None = None) -> Tensor:
        """Return a [rows, columns] piece of a buffer that is allocated once for the largest."""
        held, device = self._buffers.get(name), self.state.centers.device
        dtype = dtype or self.state.dtype
        if held is None or held.numel() < rows * columns or held.dtype != dtype or held.device != device:
            held = self._buffers[name] = torch.empty(rows * columns, dtype=dtype, device=device)
        return held[: rows * columns].view(rows, columns)

    @property
    def _limit(self) -> float:
        return self.scale * self.threshold if self.threshold else math.inf

    def _negatives(
        self, t_Nk: Tensor, r_k: Tensor, block: Block, targets: Targets, part: Part | None, offset: float
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return z - offset [N, n] from t = s * (x @ w.T), which is destroyed; dz/dcos; and which center won.

        Own and filtered classes are at -inf. Both passes decide about filtering, and about what a margin bends, by the
        same arithmetic on the same t.
        """
        slope_Nn = winner_Nn = None
        if self.is_plain and not self.threshold:
            z_Nn = torch.addcmul(r_k.new_full((len(r_k),), -offset), t_Nk, r_k, out=t_Nk)
        else:
            z_Nn, winner_Nn = self._nearest_center(t_Nk.mul_(r_k))
            is_filtered = z_Nn > self._limit if self.threshold else None
            if self.margin.bends_negatives:
                assert part is not None, "a margin that bends negatives knows the own cosines by now"
                z_Nn, slope_Nn = self._bent(z_Nn, [part])
            z_Nn.sub_(offset)
            if is_filtered is not None:
                z_Nn.masked_fill_(is_filtered, -torch.inf)
        targets.put_(z_Nn, block, -torch.inf)
        return z_Nn, slope_Nn, winner_Nn

    def _nearest_center(self, z_Nk: Tensor) -> tuple[Tensor, Tensor | None]:
        if self.sub_centers == 1:
            return z_Nk, None
        z_Nn, winner_Nn = z_Nk.view(len(z_Nk), -1, self.sub_centers).max(2)
        return z_Nn, winner_Nn

    def _bent(self, z_Nn: Tensor, parts: list[Part]) -> tuple[Tensor, Tensor]:
        cos_of = [z_Nn[part.rows] / self.scale for part in parts]
        pieces = [self.margin.negative(part.margin_state, part.own, cos) for part, cos in zip(parts, cos_of)]
        bent_Nn, slope_Nn = (torch.cat(each) if len(each) > 1 else each[0] for each in zip(*pieces, strict=True))
        return bent_Nn * self.scale, slope_Nn

    def _per_center(self, e_Nn: Tensor, slope_Nn: Tensor | None, winner_Nn: Tensor | None, r_k: Tensor) -> Tensor:
        """Return E dz/dcos r [N, k] of a tile E [N, n], which is destroyed; only a class's nearest center counts."""
        if slope_Nn is not None:
            e_Nn.mul_(slope_Nn)
        if winner_Nn is None:
            return e_Nn.mul_(r_k)
        r_NnK = r_k.view(-1, self.sub_centers).expand(len(e_Nn), -1, -1)
        e_Nn.mul_(r_NnK.gather(2, winner_Nn.unsqueeze(2)).squeeze(2))
        er_Nk = self.buffer("e", len(e_Nn), len(r_k)).zero_()
        er_Nk.view_as(r_NnK).scatter_(2, winner_Nn.unsqueeze(2), e_Nn.unsqueeze(2))
        return er_Nk

    def _exponentials(self, t_Nk: Tensor, r_k: Tensor, block: Block, descent: Descent) -> Tensor:
        """Return E dz/dcos r [N, k] of a block for pass 2, own classes included; t stays as it is."""
        z_Nk = self.buffer("e" if self.is_plain else "zr", *t_Nk.shape)
        shift = SHIFT if descent.row_shift_N is None else descent.row_shift_N.unsqueeze(1)
        if self.is_plain and self.threshold == 0:  # one walk less: exp(z + log r) is E r
            torch.addcmul(r_k.log().sub_(SHIFT if descent.row_shift_N is None else 0.0), t_Nk, r_k, out=z_Nk)
            e_Nk = (z_Nk if descent.row_shift_N is None else z_Nk.sub_(shift)).exp_()
        else:
            z_Nn, winner_Nn = self._nearest_center(torch.mul(t_Nk, r_k, out=z_Nk))
            is_filtered = z_Nn > self._limit if self.threshold else None
            z_Nn, slope_Nn = self._bent(z_Nn, descent.parts) if self.margin.bends_negatives else (z_Nn, None)
            if is_filtered is not None:
                z_Nn.masked_fill_(is_filtered, -torch.inf)
            e_Nn = z_Nn.sub_(shift).exp_()
            if not self.is_plain:
                self._put_own(e_Nn if slope_Nn is None else e_Nn.mul_(slope_Nn), block, descent)
                return self._per_center(e_Nn, None, winner_Nn, r_k)
            e_Nk = e_Nn.mul_(r_k)
        self._put_own(e_Nk, block, descent)
        return e_Nk

    def _put_own(self, e_Nn: Tensor, block: Block, descent: Descent) -> None:
        """Write E_t at the own classes, and 0 where a forward of the step did not sample a class; weigh the others."""
        for part in descent.parts:
            if part.member is not None:
                e_Nn[part.rows].masked_fill_(~part.member[block.start : block.stop], 0.0)
            if part.weight is not None:
                e_Nn[part.rows].mul_(part.weight[block.start : block.stop])
        descent.targets.put_(e_Nn, block, descent.target_value_N)

    def _fold_by_kernel_(
        self, t_Nk: Tensor, r_k: Tensor, block: Block, targets: Targets, largest_N: Tensor, total_N: Tensor
    ) -> Tensor:
        out = self._tile_for_products(t_Nk)
        self.kernels.fold_(
            t_Nk,
            r_k,
            targets.positions,
            largest_N,
            total_N,
            start=block.start,
            limit=self._limit,
            shift=SHIFT,
            out=out,
        )
        return out

    def _exponentials_by_kernel(
        self, t_Nk: Tensor, r_k: Tensor, block: Block, descent: Descent, column_weight_N: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = self._tile_for_products(t_Nk)
        dot_k = self.kernels.exponentials(
            t_Nk,
            r_k,
            descent.targets.positions,
            descent.target_value_N,
            column_weight_N,
            start=block.start,
            limit=self._limit,
            shift=SHIFT,
            out=out,
        )
        return out, dot_k

    def _tile_for_products(self, t_Nk: Tensor) -> Tensor:
        rows, columns = t_Nk.shape
        return self.buffer("e", rows, columns, dtype=torch.bfloat16 if self.products == "bf16" else None)


def load_kernels(*, is_bounded: bool, is_plain: bool, dtype: torch.dtype, device: torch.device) -> Any:
    """Return the module of fused kernels where they apply and Triton can build them, else None.

    Triton is in every CUDA build of torch, and needs a C compiler and Python's headers when a kernel first runs.
    """
    if not (is_bounded and is_plain and dtype == torch.float32 and _has_triton()):
        return None
    return _tried_kernels(device)


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@functools.cache
def _tried_kernels(device: torch.device) -> Any:
    """Return the kernels if each of them runs on a tile of a few elements; warn once and return None if not."""
    try:
        from recognition.heads import fused_triton  # it cannot be imported without Triton

        fused_triton.try_all(device)
    except Exception as err:  # a compiler's, a driver's, Triton's own: none of them may stop a run
        found = str(err).strip().partition("\n")[0][:200]
        logger.warning(
            "head: Triton cannot run its kernels on %s (%s: %s); expected a C compiler and Python.h; plain operations "
            "take their place; install gcc and python3-dev, or set head.kernels=false to try no more",
            device,
            type(err).__name__,
            found,
        )
        return None
    return fused_triton


def rows_per_block(batch: int, embedding_size: int, sub_centers: int, device: str) -> int:
    """Return how many centers make a block whose tiles, centers and momentum fill the cache of the device.

    A whole number of classes, and a power of two of them.
    """
    row_bytes = 4 * 2 * (batch + embedding_size)
    classes = max(1, _CACHE_BYTES[device] // (row_bytes * sub_centers))
    return sub_centers << (classes.bit_length() - 1)
