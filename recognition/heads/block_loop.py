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

A margin may ask for another kind of tile (margins/protocol.py): one that bends the negatives, z = s h(c), has E h'; a
sum of softplus has E = sigmoid(z) and an a that no sum decides; with embeddings of raw length s is 1, and where the
centers are raw too, r is 1 and nothing is projected: of the second term of dw only the own class's part is left.

Shape suffixes: N rows of the global batch, D embedding size, n classes of a block, K centers a class, k = n K centers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from recognition.heads.margins import Margin
from recognition.heads.products import Kind, accumulate_, multiply
from recognition.heads.sampling import Active, Block, Targets
from recognition.heads.state import CenterState, inverse_norms
from recognition.heads.tallies import NO_COSINE, Descent, Even, Part, Sums, Tally

if TYPE_CHECKING:
    from recognition.heads.fused.path import FusedPath

# exp(z - 16) and its sum over 1e10 classes fit float32 without a running maximum up to this |z|, and both E and the
# rows' weights stay far from the smallest normal number.
_LARGEST_BOUNDED = 64.0
SHIFT = 16.0

# On 2 MiB of L2 a core, N = 128 and D = 512, 512 to 8,192 rows differ by 5 % in float32; in bf16 2,048 are 10 %
# faster than 512, whose products are too small. On CUDA it is a guess that keeps launches few; it was not measured.
_CACHE_BYTES = {"cpu": 12 << 20, "cuda": 200 << 20, "meta": 200 << 20}


class Rule(Protocol):
    """What is done with a block's gradient (E r).T @ (a x) - r^2 colsum(g cos) w, which it forms itself."""

    def apply_(
        self, loop: BlockLoop, block: Block, w_kD: Tensor, e_Nk: Tensor, dot_k: Tensor, weighted_ND: Tensor
    ) -> None: ...

    def moved(self, kept: Mapping[str, Tensor], gradient: Tensor) -> dict[str, Tensor]:
        """Return `kept` after the step: the number "b" that all ranks hold alike, its moments "b_momentum" and
        "b_square", and how often it was moved, "b_steps"; all 0-dim float64."""
        ...


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
    fused: FusedPath | None = None
    """Where both passes are kernels with their products inside."""
    _buffers: dict[str, Tensor] = field(default_factory=dict)

    smooths: bool = False
    """Whether pass 1 also sums what label smoothing needs."""

    @property
    def is_bounded(self) -> bool:
        """Whether exp(z - SHIFT) needs no running maximum."""
        return self.scale * self.margin.largest <= _LARGEST_BOUNDED

    @property
    def is_plain(self) -> bool:
        """Whether a tile's column is one center and its z is s cos: then dz/dcos r is r."""
        return self.sub_centers == 1 and not self.margin.bends_negatives

    @property
    def fits_kernels(self) -> bool:
        """Whether a step is softmax over bounded z = s cos of unit rows, one center a class, s fixed: nothing else."""
        margin = self.margin
        is_unit_softmax = margin.sums == "softmax" and margin.rows == "unit" and not margin.moves_scale
        return self.is_plain and self.is_bounded and is_unit_softmax and not self.smooths

    def first_pass(self, x_ND: Tensor, active: Active, targets: Targets, part: Part, *, want_numerator: bool) -> Sums:
        """Pass 1: total += rowsum(E) and numerator += (E r) @ w over the negatives of this rank's active classes."""
        if self.fused is not None and active.weight is None:
            return self.fused.first_pass(x_ND, active, targets, want_numerator=want_numerator)
        is_softmax = self.margin.sums == "softmax"
        xs_ND = x_ND * self._tile_scale(part.scale)
        offset = SHIFT if is_softmax and self.is_bounded else 0.0  # z is kept less this; else less its running maximum
        tally = Tally.empty(
            x_ND,
            floor=self._floor - offset,
            keeps_maximum=is_softmax and not self.is_bounded,
            is_softmax=is_softmax,
            has_nearest=self.margin.bends_negatives,
        )
        even = Even.empty(x_ND, has_own=self.is_plain and not self.threshold) if self.smooths else None
        for block in active.blocks(self.classes_per_block(len(x_ND))):
            w_kD = self.state.read_centers(block.rows, self.buffer("centers", block.num_rows, x_ND.shape[1]))
            r_k = self._inverse_lengths(w_kD)
            self.state.inverse_norm[block.rows] = r_k  # for pass 2
            t_Nk = multiply(xs_ND, w_kD.T, self.buffer("z", len(x_ND), len(w_kD)), self.products)
            weight_n = None if active.weight is None else active.weight[block.start : block.stop]
            if self.kernels is not None and weight_n is None:
                er_Nk = self._fold_by_kernel_(t_Nk, r_k, block, targets, tally.largest_N, tally.total_N)
            else:
                z_Nn, slope_Nn, winner_Nn = self._negatives(t_Nk, r_k, block, targets, part, offset, tally.nearest_N)
                if even is not None:
                    self._add_even_(even, z_Nn, slope_Nn, winner_Nn, r_k, w_kD, offset, weight_n)
                e_Nn = tally.add_(z_Nn, weight_n)
                er_Nk = self._per_center(e_Nn, slope_Nn, winner_Nn, r_k) if want_numerator else e_Nn
            if want_numerator:
                accumulate_(tally.numerator_ND, er_Nk, w_kD, self.products)
        if even is not None and even.has_own:
            even.z_N.add_((xs_ND.double() @ even.numerator_ND.double().T).squeeze(1))
            even.count_N.add_(len(active) if active.weight is None else active.weight.sum())
        return Sums(
            tally.largest_N.double() + offset,
            tally.total_N,
            tally.numerator_ND if want_numerator else None,
            None if tally.nearest_N is None else tally.nearest_N.double(),
            tally.sigmoid_N,
            even,
        )

    def second_pass(self, descent: Descent, rule: Rule) -> None:
        """Pass 2: recompute E r of every block, now with the own classes in it, and let `rule` move the block."""
        if self.fused is not None and self.fused.takes(descent, rule):
            self.fused.second_pass(descent, rule)
            return
        scale = self._tile_scale(descent.scale)
        xs_ND = descent.x_ND * (scale.unsqueeze(1) if isinstance(scale, Tensor) else scale)
        weighted_ND = descent.x_ND * descent.weight_N.unsqueeze(1)
        column_weight_N = descent.weight_N / scale  # g cos = a E z / s
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
                if self.margin.rows == "raw":
                    dot_k = self._own_radial(block, descent)
                else:
                    dot_k = torch.mv(t_Nk.mul_(er_Nk).T, column_weight_N)
            rule.apply_(self, block, w_kD, er_Nk, dot_k, weighted_ND)

    def nearest(self, x_ND: Tensor, active: Active, targets: Targets) -> Tensor:
        """Return the largest negative logit of each class over the batch [C_r]: a product over all of them."""
        xs_ND = x_ND * self._tile_scale(self.scale)
        scores = x_ND.new_empty(len(active))
        for block in active.blocks(self.classes_per_block(len(x_ND))):
            w_kD = self.state.read_centers(block.rows, self.buffer("centers", block.num_rows, x_ND.shape[1]))
            t_Nk = multiply(xs_ND, w_kD.T, self.buffer("z", len(x_ND), len(w_kD)), self.products)
            z_Nn, _ = self._nearest_center(t_Nk.mul_(self._inverse_lengths(w_kD)))
            if self.threshold:
                z_Nn.masked_fill_(z_Nn > self._limit(self.scale), -torch.inf)
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
    def _floor(self) -> float:
        """A value below any z."""
        largest = self.scale * self.margin.largest
        return -2 * largest if math.isfinite(largest) else -1e30

    def _tile_scale(self, scale: float | Tensor) -> float | Tensor:
        """Return what a tile's products are scaled by: where negatives are bent, a tile holds cosines."""
        return 1.0 if self.margin.bends_negatives else scale

    def _limit(self, scale: float | Tensor) -> Any:
        """Return the value in a tile above which a negative is left out: a number, or one per row [N, 1]."""
        scale = self._tile_scale(scale)
        if not self.threshold:
            return math.inf
        return self.threshold * (scale.unsqueeze(-1) if isinstance(scale, Tensor) and scale.ndim else scale)

    def _inverse_lengths(self, w_kD: Tensor) -> Tensor:
        return torch.ones_like(w_kD[:, 0]) if self.margin.rows == "raw" else inverse_norms(w_kD)

    def _add_even_(
        self,
        even: Even,
        z_Nn: Tensor,
        slope_Nn: Tensor | None,
        winner_Nn: Tensor | None,
        r_k: Tensor,
        w_kD: Tensor,
        offset: float,
        weight_n: Tensor | None,
    ) -> None:
        """Add a block to `even`; where rows leave classes out, or their columns differ, for a product more."""
        if even.has_own:
            even.numerator_ND.addmm_((r_k if weight_n is None else r_k * weight_n).unsqueeze(0), w_kD)
            return
        counts_Nn = (z_Nn != -torch.inf).to(z_Nn.dtype)
        if weight_n is not None:
            counts_Nn.mul_(weight_n)
        even.z_N.add_(torch.where(counts_Nn > 0, (z_Nn + offset) * counts_Nn, 0.0).sum(1))
        even.count_N.add_(counts_Nn.sum(1))
        accumulate_(even.numerator_ND, self._per_center(counts_Nn, slope_Nn, winner_Nn, r_k), w_kD, self.products)

    def _negatives(
        self,
        t_Nk: Tensor,
        r_k: Tensor,
        block: Block,
        targets: Targets,
        part: Part,
        offset: float,
        nearest_N: Tensor | None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return z - offset [N, n] from t = s * (x @ w.T), which is destroyed; dz/dcos; and which center won.

        Own and filtered classes are at -inf; the largest cosine goes to `nearest_N` where that is kept. Both passes
        decide about filtering, and about what a margin bends, by the same arithmetic on the same t.
        """
        slope_Nn = winner_Nn = None
        if self.is_plain and not self.threshold:
            z_Nn = torch.addcmul(r_k.new_full((len(r_k),), -offset), t_Nk, r_k, out=t_Nk)
        else:
            z_Nn, winner_Nn = self._nearest_center(t_Nk.mul_(r_k))
            is_filtered = z_Nn > self._limit(part.scale) if self.threshold else None
            if nearest_N is not None:
                if is_filtered is not None:
                    z_Nn.masked_fill_(is_filtered, NO_COSINE)
                targets.put_(z_Nn, block, NO_COSINE)
                torch.maximum(nearest_N, z_Nn.amax(1), out=nearest_N)
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

    def _bent(self, cos_Nn: Tensor, parts: list[Part]) -> tuple[Tensor, Tensor | None]:
        """Return s h(cos) and h' of a tile, which is destroyed."""
        bents, slopes = [], []
        for part in parts:
            bent_Nn, slope_Nn = self.margin.negative(part.margin_state, part.own, cos_Nn[part.rows])
            bents.append(bent_Nn.mul_(part.scale))
            slopes.append(slope_Nn)
        if len(parts) == 1:
            return bents[0], slopes[0]
        whole = [slope for slope in slopes if slope is not None]
        return torch.cat(bents), torch.cat(whole) if whole else None

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
            if descent.even_N is not None:
                e_Nk.addr_(descent.even_N, r_k, alpha=-1)
        else:
            z_Nn, winner_Nn = self._nearest_center(torch.mul(t_Nk, r_k, out=z_Nk))
            is_filtered = z_Nn > self._limit(descent.scale) if self.threshold else None
            z_Nn, slope_Nn = self._bent(z_Nn, descent.parts) if self.margin.bends_negatives else (z_Nn, None)
            e_Nn = z_Nn.sigmoid_() if self.margin.sums == "softplus" else z_Nn.sub_(shift).exp_()
            if descent.even_N is not None:
                e_Nn.sub_(descent.even_N.unsqueeze(1))
            if is_filtered is not None:
                e_Nn.masked_fill_(is_filtered, 0.0)
            if not self.is_plain:
                self._put_own(e_Nn if slope_Nn is None else e_Nn.mul_(slope_Nn), block, descent)
                return self._per_center(e_Nn, None, winner_Nn, r_k)
            e_Nk = e_Nn.mul_(r_k)
        self._put_own(e_Nk, block, descent)
        return e_Nk

    def _own_radial(self, block: Block, descent: Descent) -> Tensor:
        """Return what stands in for colsum(g cos) with raw centers [k]: minus the own classes' gradients along w."""
        sums = descent.weight_N.new_zeros(block.num_rows + 1)
        if descent.radial_N is not None:
            columns_N = descent.targets.positions - block.start
            is_here_N = (columns_N >= 0) & (columns_N < block.num_rows)
            columns_N = torch.where(is_here_N, columns_N, block.num_rows)
            sums.index_add_(0, columns_N, descent.radial_N * descent.weight_N, alpha=-1)
        return sums[:-1]

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
            limit=self._limit(self.scale),
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
            limit=self._limit(self.scale),
            shift=SHIFT,
            out=out,
        )
        return out, dot_k

    def _tile_for_products(self, t_Nk: Tensor) -> Tensor:
        rows, columns = t_Nk.shape
        return self.buffer("e", rows, columns, dtype=torch.bfloat16 if self.products == "bf16" else None)


def rows_per_block(batch: int, embedding_size: int, sub_centers: int, device: str) -> int:
    """Return how many centers make a block whose tiles, centers and momentum fill the cache of the device.

    A whole number of classes, and a power of two of them.
    """
    row_bytes = 4 * 2 * (batch + embedding_size)
    classes = max(1, _CACHE_BYTES[device] // (row_bytes * sub_centers))
    return sub_centers << (classes.bit_length() - 1)
