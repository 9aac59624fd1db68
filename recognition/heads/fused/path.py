"""The two passes by kernels that form their products themselves: what they apply to, and what they share.

Pass 1 is two launches a chunk of classes (E r in bf16, small enough for L2; then cuBLAS for dx's numerator), or with
`variant` "on chip" one for all of them. Pass 2 is one launch. Between steps it keeps a bf16 copy of float32 centers and
the inverse norms, which pass 2 renews; where somebody else has changed the centers both are formed anew.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from recognition.draws.hashing import key_of
from recognition.heads.block_loop import SHIFT, BlockLoop, Rule
from recognition.heads.fused.shapes import CHUNK_BYTES, EMBEDDING_SIZES, Shapes, shapes_for
from recognition.heads.fused.stored import Numbers, Stored
from recognition.heads.products import accumulate_
from recognition.heads.rules import Sgd
from recognition.heads.sampling import Active, Targets
from recognition.heads.state import CenterState, inverse_norms
from recognition.heads.tallies import Descent, Sums

logger = logging.getLogger(__name__)

Variant = Literal["chunks", "on chip"]
_REFRESH_ROWS = 1 << 16
_SHARES = 16
"""Of the classes in pass 1 on chip: with N / 64 of them enough programs for a GPU at N = 1,024."""


def why_not(loop: BlockLoop) -> str | None:
    """Return why the kernels do not apply to a head, None where they do."""
    size = loop.state.centers.shape[1]
    if not loop.fits_kernels:
        return "not a softmax over one center a class with scale times cosine bounded by 64, or with label smoothing"
    if loop.kernels is None:
        return "Triton is not here, or cannot run"
    if size not in EMBEDDING_SIZES:
        return f"embedding size {size} is none of {', '.join(map(str, EMBEDDING_SIZES))}"
    if loop.products != "bf16":
        return f"products are {loop.products}, not bf16"
    if loop.state.dtype != torch.float32:
        return f"the head computes in {loop.state.dtype}"
    return None


class FusedPath:
    """Both passes of a block loop, by kernels.

    `pass1` and `pass2` are the modules of that name. `low` is what operands of products are rounded to: bf16 but in
    tests, which see the arithmetic better without the rounding.
    """

    def __init__(
        self,
        loop: BlockLoop,
        pass1: Any,
        pass2: Any,
        shapes: Shapes,
        *,
        variant: Variant = "chunks",
        low: torch.dtype = torch.bfloat16,
    ) -> None:
        self.loop, self.variant, self.shapes = loop, variant, shapes
        self.pass1, self.pass2, self._low = pass1, pass2, low
        state, device = loop.state, loop.state.centers.device
        self._known: int | None = None  # the centers' version that shadow and norms are of
        self._shadow: Tensor | None = None
        if state.centers.dtype != low:
            self._shadow = torch.empty(state.centers.shape, dtype=low, device=device)
        self._rates = torch.zeros(3, device=device)
        self._keys = torch.zeros(3, dtype=torch.int64, device=device)
        self._written: dict[torch.dtype, list[Any]] = {}

    @property
    def shadow(self) -> Tensor:
        """The centers as products take them [C_r, D]."""
        return self.loop.state.centers.detach() if self._shadow is None else self._shadow

    def first_pass(self, x_ND: Tensor, active: Active, targets: Targets, *, want_numerator: bool) -> Sums:
        """Pass 1, as BlockLoop.first_pass."""
        self._refresh()
        low_ND = (x_ND * self.loop.scale).to(self._low)
        floor = -2 * self.loop.scale * self.loop.margin.largest - SHIFT
        numerator_ND = torch.zeros_like(x_ND) if want_numerator else None
        if want_numerator and self.variant == "on chip" and active.sample is None and len(active):
            shares = _SHARES
            largest_TN, totals_TN = self._slots(shares, len(x_ND), floor)
            numerators = x_ND.new_zeros(shares, *x_ND.shape)
            self.pass1.sums_on_chip(
                low_ND,
                self.shadow,
                self.loop.state.inverse_norm,
                targets.positions,
                totals_TN,
                largest_TN,
                numerators,
                start=0,
                limit=self._limit,
                shift=SHIFT,
                shape=self.shapes.sums,
            )
            numerator_ND = numerators.sum(0)
        else:
            totals_TN, largest_TN = self._fold_chunks(low_ND, active, targets, numerator_ND, floor)
        return Sums(largest_TN.amax(0).double() + SHIFT, totals_TN.sum(0), numerator_ND)

    def _fold_chunks(
        self, low_ND: Tensor, active: Active, targets: Targets, numerator_ND: Tensor | None, floor: float
    ) -> tuple[Tensor, Tensor]:
        tile, size = self.shapes.logits, self.classes_per_chunk(len(low_ND))
        largest_TN, totals_TN = self._slots(-(-size // tile.classes), len(low_ND), floor)
        for block in active.blocks(size):
            low_nD = self.shadow[block.rows]  # a view, or a copy of the sampled rows
            e_Nn = None
            if numerator_ND is not None:
                e_Nn = self.loop.buffer("er", len(low_ND), len(low_nD), dtype=self._low)
            self.pass1.logits(
                low_ND,
                low_nD,
                self.loop.state.inverse_norm[block.rows],
                targets.positions,
                totals_TN,
                largest_TN,
                e_Nn,
                start=block.start,
                limit=self._limit,
                shift=SHIFT,
                tile=tile,
            )
            if numerator_ND is not None and e_Nn is not None:
                accumulate_(numerator_ND, e_Nn, low_nD, "bf16")
        return totals_TN, largest_TN

    def takes(self, descent: Descent, rule: Rule) -> bool:
        """Whether pass 2 of a step is one kernel: SGD's, where all of its forwards saw the same classes alike."""
        is_even = all(part.member is None and part.weight is None for part in descent.parts)
        return isinstance(rule, Sgd) and is_even

    def second_pass(self, descent: Descent, rule: Rule) -> None:
        """Pass 2 with the step of SGD, unless it is refused."""
        assert isinstance(rule, Sgd), "see takes"
        assert rule.refused is not None, "kernels are where the device decides"
        state = self.loop.state
        sample = descent.active.sample
        if not len(descent.active):
            return
        self._refresh()
        self._set_numbers(rule)
        is_small = sample is not None or state.momentum_scale is not None
        self.pass2.descend_(
            (descent.x_ND * self.loop.scale).to(self._low),
            descent.weight_N / self.loop.scale,
            descent.targets.positions,
            descent.target_value_N,
            Stored(
                state.centers.detach(), self.shadow, state.momentum, state.momentum_scale, state.inverse_norm, sample
            ),
            Numbers(self._rates, self._keys, rule.refused.to(torch.int32)),
            first_row=state.rows.start,
            limit=self._limit,
            shift=SHIFT,
            shape=self.shapes.descend_small if is_small else self.shapes.descend,
        )
        increment_version(state.centers)  # torch sees no write of Triton's, and a late backward must be refused
        self._known = state.centers._version

    def try_all(self) -> None:
        """Launch the kernels of this head once, moving nothing; raises what Triton raises where it cannot."""
        state, device = self.loop.state, self.shadow.device
        x_ND = torch.zeros(2, state.centers.shape[1], device=device)
        positions = torch.full((2,), -1, device=device)
        everything = Active(len(state.rows), 1)
        targets = Targets(positions, on_host=False)
        some = Active(min(2, len(state.rows)), 1)
        self.first_pass(x_ND, some, targets, want_numerator=True)
        nothing_N = torch.zeros(2, device=device)
        moves = Descent(x_ND, nothing_N, nothing_N, None, None, None, self.loop.scale, everything, targets, [])
        self.second_pass(moves, Sgd(0.0, 0.0, 0.0, 0, torch.ones((), dtype=torch.bool, device=device)))

    def classes_per_chunk(self, rows: int) -> int:
        """Return how many classes' E r [N, n] stay in L2: whole tiles, and no more than `block_size`."""
        most = CHUNK_BYTES // (2 * rows)
        if self.loop.block_size is not None:
            most = min(most, self.loop.block_size)
        tile = self.shapes.logits.classes
        return max(tile, most // tile * tile) if most >= tile else max(1, most)

    def _slots(self, count: int, rows: int, floor: float) -> tuple[Tensor, Tensor]:
        device = self.shadow.device
        largest = torch.full((count, rows), floor, dtype=torch.float32, device=device)
        return largest, torch.zeros(count, rows, dtype=torch.float64, device=device)

    def _set_numbers(self, rule: Sgd) -> None:
        seed = self.loop.state.seed
        keeps = 0.0 if self.loop.state.momentum is None else rule.momentum
        self._fill_(self._rates, (rule.lr, keeps, rule.weight_decay))
        if self.loop.state.centers.dtype == torch.bfloat16:  # nothing else is rounded at random
            self._fill_(self._keys, [key_of(key) for key in (seed, rule.number, seed ^ rule.number)])

    def _fill_(self, numbers: Tensor, values: Sequence[float]) -> None:
        """Write those of `values` that are not the last ones: each is a launch."""
        before = self._written.get(numbers.dtype, [None] * len(values))
        for place, value in enumerate(values):
            if value != before[place]:
                numbers[place].fill_(value)
        self._written[numbers.dtype] = list(values)

    @property
    def _limit(self) -> float:
        """The z above which a negative is left out."""
        return self.loop.scale * self.loop.threshold if self.loop.threshold else math.inf

    @torch.no_grad()
    def _refresh(self) -> None:
        """Form the bf16 copy and the inverse norms, if the centers are not those that pass 2 has left."""
        state: CenterState = self.loop.state
        if self._known == state.centers._version:
            return
        centers = state.centers.detach()
        for first in range(0, len(centers), _REFRESH_ROWS):
            part = slice(first, first + _REFRESH_ROWS)
            state.inverse_norm[part] = inverse_norms(centers[part].float())
            if self._shadow is not None:
                self._shadow[part] = centers[part]
        self._known = state.centers._version


@functools.cache
def _modules() -> tuple[Any, Any]:
    return tuple(importlib.import_module(f"recognition.heads.fused.{name}") for name in ("pass1", "pass2"))  # type: ignore[return-value]


def capability_of(device: torch.device) -> tuple[int, int]:
    """Return the compute capability of `device`; where Triton interprets kernels on a CPU, that of the default."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)


def load_path(loop: BlockLoop) -> FusedPath | None:
    """Return the fused path of `loop` where it applies and its kernels run; else None, and one line says why."""
    reason = why_not(loop)
    if reason is None:
        state = loop.state
        path = FusedPath(loop, *_modules(), shapes_for(capability_of(state.centers.device), state.centers.shape[1]))
        try:
            path.try_all()
        except Exception as err:  # a compiler's, a driver's, Triton's own: none of them may stop a run
            first_line = str(err).strip().partition("\n")[0][:200]
            reason = f"its kernels do not run here ({type(err).__name__}: {first_line})"
            logger.warning("head: %s; the products are cuBLAS's", reason)
            return None
        logger.info("head: both passes are kernels with their products inside, %s variant of pass 1", path.variant)
        return path
    logger.info("head: products by cuBLAS and kernels between them: %s", reason)
    return None
