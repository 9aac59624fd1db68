"""The two passes by kernels that form their products themselves: what they apply to, and what they share.

Pass 1 is two launches a chunk of classes (E r in bf16, small enough for L2; then cuBLAS for dx's numerator), or with
`variant` "on chip" one for all of them. Pass 2 is one launch, with the step of SGD or AdamW in it. Between steps there
are a bf16 copy of float32 centers and the inverse norms, which pass 2 renews; where somebody else has changed the
centers both are formed anew.
"""

from __future__ import annotations

import functools
import importlib
import logging
import math
from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd.graph import increment_version

from recognition.draws.hashing import key_of
from recognition.heads.adamw import AdamW
from recognition.heads.block_loop import SHIFT, BlockLoop, Rule
from recognition.heads.fused.shapes import CHUNK_BYTES, EMBEDDING_SIZES, Shapes, shapes_for
from recognition.heads.fused.stored import Held, Numbers, Second, Stored
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

    `pass1`, `pass2` and `pass2_adamw` are the modules of that name. `low` is what operands of products are rounded to:
    bf16 but in tests, which see the arithmetic better without the rounding.
    """

    def __init__(
        self,
        loop: BlockLoop,
        pass1: Any,
        pass2: Any,
        pass2_adamw: Any,
        shapes: Shapes,
        *,
        variant: Variant = "chunks",
        low: torch.dtype = torch.bfloat16,
    ) -> None:
        self.loop, self.variant, self.shapes = loop, variant, shapes
        self.pass1, self.pass2, self.pass2_adamw, self._low = pass1, pass2, pass2_adamw, low
        state, device = loop.state, loop.state.centers.device
        self._known: int | None = None  # the centers' version that shadow and norms are of
        self._shadow: Tensor | None = None
        if state.centers.dtype != low:
            self._shadow = torch.empty(state.centers.shape, dtype=low, device=device)
        self._rates = Held(6, torch.float32, device)
        self._corrections = Held(3, torch.float64, device)
        self._keys = Held(6, torch.int64, device)

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
        """Whether pass 2 of a step is one kernel: SGD's or AdamW's, if all of its forwards saw the same classes alike.

        AdamW's kernel is tried when it is first asked for: a head is made before its optimizer.
        """
        if any(part.member is not None or part.weight is not None for part in descent.parts):
            return False
        return isinstance(rule, Sgd) or (isinstance(rule, AdamW) and self._runs_adamw)

    def second_pass(self, descent: Descent, rule: Rule) -> None:
        """Pass 2 with the step of SGD or AdamW, unless it is refused."""
        assert isinstance(rule, Sgd | AdamW), "see takes"
        assert rule.refused is not None, "kernels are where the device decides"
        centers = self.loop.state.centers
        self._refresh()
        self._set_numbers(rule)
        self._launch(descent, rule.refused, is_adamw=isinstance(rule, AdamW))
        increment_version(centers)  # torch sees no write of Triton's, and a late backward must be refused
        self._known = centers._version

    def _launch(self, descent: Descent, refused: Tensor, *, is_adamw: bool) -> None:
        if not len(descent.active):
            return
        state, sample, second = self.loop.state, descent.active.sample, None
        if state.second_moment is not None and state.updates is not None:
            second = Second(state.second_moment, state.second_moment_scale, state.updates)
        (self.pass2_adamw if is_adamw else self.pass2).descend_(
            (descent.x_ND * self.loop.scale).to(self._low),
            descent.weight_N / self.loop.scale,
            descent.targets.positions,
            descent.target_value_N,
            Stored(
                state.centers.detach(),
                self.shadow,
                state.momentum,
                state.momentum_scale,
                state.inverse_norm,
                sample,
                second,
            ),
            Numbers(self._rates.numbers, self._corrections.numbers, self._keys.numbers, refused.to(torch.int32)),
            first_row=state.rows.start,
            limit=self._limit,
            shift=SHIFT,
            shape=self.shapes.of_pass_2(
                is_adamw=is_adamw,
                centers=state.centers.dtype,
                momentum=None if state.momentum is None else state.momentum.dtype,
                sampled=sample is not None,
            ),
        )

    def try_all(self) -> None:
        """Launch the kernels of this head once, moving nothing; raises what Triton raises where it cannot."""
        state, device = self.loop.state, self.shadow.device
        x_ND = torch.zeros(2, state.centers.shape[1], device=device)
        positions = torch.full((2,), -1, device=device)
        some = Active(min(2, len(state.rows)), 1)
        self.first_pass(x_ND, some, Targets(positions, on_host=False), want_numerator=True)
        self._descend_nowhere(is_adamw=False)

    @functools.cached_property
    def _runs_adamw(self) -> bool:
        """Whether the kernel of AdamW can be launched; a warning says why not."""
        try:
            self._descend_nowhere(is_adamw=True)
        except Exception as err:  # a compiler's, a driver's, Triton's own: none of them may stop a run
            logger.warning("head: AdamW's kernel does not run here (%s); its pass 2 is cuBLAS's", _first_line(err))
            return False
        return True

    def _descend_nowhere(self, *, is_adamw: bool) -> None:
        """Launch pass 2 of a step of two rows that is refused."""
        device = self.shadow.device
        x_ND, nothing_N = torch.zeros(2, self.shadow.shape[1], device=device), torch.zeros(2, device=device)
        everything = Active(len(self.loop.state.rows), 1)
        targets = Targets(torch.full((2,), -1, device=device), on_host=False)
        descent = Descent(x_ND, nothing_N, nothing_N, None, None, None, self.loop.scale, everything, targets, [])
        self._launch(descent, torch.ones((), dtype=torch.bool, device=device), is_adamw=is_adamw)

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

    def _set_numbers(self, rule: Sgd | AdamW) -> None:
        state, seed, number = self.loop.state, self.loop.state.seed, rule.number
        rounds = state.centers.dtype == torch.bfloat16  # nothing else is rounded at random under SGD
        if isinstance(rule, AdamW):
            beta1, beta2 = rule.betas
            decay = 1 - rule.lr * rule.weight_decay
            self._rates.set_((rule.lr, decay, beta1, 1 - beta1, beta2, 1 - beta2))
            self._corrections.set_([*(math.log(beta) if beta else -math.inf for beta in rule.betas), rule.eps])
            rounds = rounds or state.momentum_format != "float32"
        else:
            self._rates.set_((rule.lr, 0.0 if state.momentum is None else rule.momentum, rule.weight_decay))
        if rounds:
            keys = [seed, number, seed ^ number]
            if isinstance(rule, AdamW):
                keys += [seed, ~number, seed ^ ~number]
            self._keys.set_([key_of(key) for key in keys])

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
def _modules() -> tuple[Any, Any, Any]:
    names = ("pass1", "pass2", "pass2_adamw")
    return tuple(importlib.import_module(f"recognition.heads.fused.{name}") for name in names)  # type: ignore[return-value]


def _first_line(err: Exception) -> str:
    return f"{type(err).__name__}: {str(err).strip().partition(chr(10))[0][:200]}"


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
            logger.warning("head: its kernels do not run here (%s); the products are cuBLAS's", _first_line(err))
            return None
        logger.info("head: both passes are kernels with their products inside, %s variant of pass 1", path.variant)
        return path
    logger.info("head: products by cuBLAS and kernels between them: %s", reason)
    return None
