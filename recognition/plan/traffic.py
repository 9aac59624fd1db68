"""What a step of the head moves between memory and processor, and multiplies: traced, on tensors without memory.

Both passes run as they are over tensors of torch's "meta" device, and every operation is noted with the bytes of its
operands. A kernel of heads/fused is noted by what it is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recognition.heads.adamw import AdamW
from recognition.heads.block_loop import BlockLoop
from recognition.heads.fused.path import FusedPath, Variant, why_not
from recognition.heads.fused.shapes import CHUNK_BYTES, shapes_for
from recognition.heads.margins import ArcFace
from recognition.heads.products import Kind, adds_in_float32
from recognition.heads.rules import Sgd
from recognition.heads.sampling import Active, Targets
from recognition.heads.state import CentersFormat, CenterState, MomentumFormat, OptimizerKind
from recognition.heads.tallies import Descent, Part

Path = Literal["plain", "tiles", "fused"]
_META = torch.device("meta")
_PRODUCTS = ("aten.mm", "aten.addmm", "aten.mv", "aten.addmv")
_NOTHING = ("aten.empty", "aten.new_empty", "aten._unsafe_view", "aten.detach", "aten.alias", "aten.lift_fresh")


@dataclass(frozen=True)
class Work:
    """One kernel, as it is launched."""

    name: str
    num_bytes: int
    """Of its operands; one that is read and written in place counts once for each."""
    chunk_bytes: int
    """What of it are chunks of E r that stay in L2."""
    flops: int
    """Of matrix products."""
    precision: Kind
    is_fused: bool
    """Whether its products are formed in a kernel of ours, and not by cuBLAS."""


@dataclass
class Trace:
    """The kernels of a step, in order."""

    works: list[Work] = field(default_factory=list)

    @property
    def num_launches(self) -> int:
        """How many kernels are launched."""
        return len(self.works)

    @property
    def num_bytes(self) -> int:
        """Bytes by operands."""
        return sum(work.num_bytes for work in self.works)

    @property
    def num_bytes_past_l2(self) -> int:
        """The same without chunks of E r."""
        return sum(work.num_bytes - work.chunk_bytes for work in self.works)


@dataclass(frozen=True)
class Problem:
    """A rank's share of a step: `rows` images of the global batch against `classes` of its own."""

    rows: int
    classes: int
    embedding_size: int = 512
    centers_format: CentersFormat = "float32"
    momentum_format: MomentumFormat = "float32"
    optimizer: OptimizerKind = "sgd"
    products: Kind = "bf16"
    capability: tuple[int, int] = (9, 0)


@torch.no_grad()
def trace_step(problem: Problem, path: Path, *, variant: Variant = "chunks") -> Trace:
    """Return both passes of `problem`.

    `path`: "plain" operations; "tiles": cuBLAS's products, and kernels between them (fused_triton.py); "fused": kernels
    with the products inside, by `variant` of pass 1.
    """
    loop, trace = _loop(problem), Trace()
    if path != "plain":
        loop.kernels = Counted(trace)
    if path == "fused":
        assert (reason := why_not(loop)) is None, reason
        shapes = shapes_for(problem.capability, problem.embedding_size)
        loop.fused = FusedPath(loop, loop.kernels, loop.kernels, loop.kernels, shapes, variant=variant)
        loop.fused._known = loop.state.centers._version
        loop.fused._runs_adamw = True
    x_ND = torch.empty(problem.rows, problem.embedding_size, device=_META)
    numbers_N = torch.empty(problem.rows, device=_META)
    positions = torch.empty(problem.rows, dtype=torch.int64, device=_META)
    active, targets = Active(problem.classes, 1), Targets(positions, on_host=False)
    refused = torch.empty((), dtype=torch.bool, device=_META)
    adds_in_float32(_META)  # tries the operation out when it is asked first
    with _Noting(trace, problem):
        part = Part(slice(0, problem.rows), None, {}, loop.scale, {})
        loop.first_pass(x_ND, active, targets, part, want_numerator=True)
        rule: Sgd | AdamW = Sgd(0.1, 0.0 if problem.momentum_format == "none" else 0.9, 5e-4, 1, refused)
        if problem.optimizer == "adamw":
            rule = AdamW(0.001, (0.9, 0.999), 1e-8, 0.1, 1, refused)
        loop.second_pass(
            Descent(x_ND, numbers_N, numbers_N, None, None, None, loop.scale, active, targets, [part]), rule
        )
    return trace


class Counted:
    """In the place of the modules of kernels: notes a launch, and launches nothing."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace

    def fold_(
        self, t: Tensor, norms: Tensor, positions: Tensor, largest: Tensor, total: Tensor, *, out: Tensor, **rest: Any
    ) -> None:
        """Note what is between the products of a block of pass 1."""
        self._note("fold", [t, norms, positions], out.nbytes + 2 * (largest.nbytes + total.nbytes), 0, 0)

    def exponentials(self, t: Tensor, norms: Tensor, *of_rows: Tensor, out: Tensor, **rest: Any) -> Tensor:
        """Note what is between the products of a block of pass 2."""
        self._note("exponentials", [t, norms, *of_rows], out.nbytes + norms.nbytes, 0, 0)
        return torch.empty_like(norms)

    def update_(
        self, centers: Tensor, momentum: Tensor, gradient: Tensor, radial: Tensor, *rest: Any, **rates: Any
    ) -> None:
        """Note the step of SGD on a block of float32 state."""
        self._note("update", [gradient, radial], 2 * (centers.nbytes + momentum.nbytes), 0, 0)

    def logits(
        self,
        x: Tensor,
        w: Tensor,
        norms: Tensor,
        positions: Tensor,
        totals: Tensor,
        largest: Tensor,
        e: Tensor | None,
        **rest: Any,
    ) -> None:
        """Note the first kernel of a chunk of pass 1."""
        chunk = 0 if e is None else e.nbytes
        both_ways = 2 * (totals.nbytes + largest.nbytes)
        self._note("logits", [x, w, norms, positions], both_ways + chunk, chunk, 2 * len(x) * w.numel())

    def sums_on_chip(
        self,
        x: Tensor,
        w: Tensor,
        norms: Tensor,
        positions: Tensor,
        totals: Tensor,
        largest: Tensor,
        numerators: Tensor,
        **rest: Any,
    ) -> None:
        """Note pass 1 on chip."""
        written = totals.nbytes + 2 * largest.nbytes + numerators.nbytes
        self._note("sums on chip", [x, w, norms, positions], written, 0, 4 * len(x) * w.numel())

    def descend_(
        self, x: Tensor, weight: Tensor, positions: Tensor, values: Tensor, stored: Any, numbers: Any, **rest: Any
    ) -> None:
        """Note pass 2: what is stored of the rows is read and written."""
        kept = [stored.centers, stored.momentum, stored.momentum_scale, stored.inverse_norm]
        if stored.second is not None:
            kept += [stored.second.values, stored.second.scale, stored.second.updates]
        both_ways = 2 * sum(tensor.nbytes for tensor in kept if tensor is not None)
        if stored.shadow is not stored.centers and stored.shadow.dtype != stored.centers.dtype:
            both_ways += 2 * stored.shadow.nbytes
        self._note("descend", [x, weight, positions, values], both_ways, 0, 4 * len(x) * stored.centers.numel())

    def _note(self, name: str, read: list[Tensor], other_bytes: int, chunk_bytes: int, flops: int) -> None:
        num_bytes = other_bytes + sum(tensor.nbytes for tensor in read)
        self.trace.works.append(Work(name, num_bytes, chunk_bytes, flops, "bf16", is_fused=True))


class _Noting(TorchDispatchMode):
    """Notes every operation that would launch a kernel: the bytes of its operands and results, `out=` once."""

    def __init__(self, trace: Trace, problem: Problem) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace, self.problem = trace, problem

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = str(func).rpartition(".")[0]
        if func.is_view or name.startswith(_NOTHING):
            return result
        operands = {id(tensor): tensor for tensor in _tensors((args, kwargs, result))}.values()
        num_bytes = sum(tensor.nbytes for tensor in operands)
        flops = chunks = 0
        if name in _PRODUCTS:
            left, right = [each for each in args if isinstance(each, Tensor)][-2:]
            flops = 2 * left.numel() * (right.shape[1] if right.ndim == 2 else 1)
            chunks = sum(tensor.nbytes for tensor in operands if self._is_chunk(tensor))
        self.trace.works.append(Work(name, num_bytes, chunks, flops, self.problem.products, is_fused=False))
        return result

    def _is_chunk(self, tensor: Tensor) -> bool:
        """Whether an operand of a product is E r of a chunk that stays in L2."""
        is_tile = tensor.ndim == 2 and len(tensor) == self.problem.rows
        is_low = tensor.dtype == torch.bfloat16 and tensor.nbytes <= CHUNK_BYTES
        return is_tile and is_low and tensor.shape[1] != self.problem.embedding_size


def _tensors(values: Any) -> Iterator[Tensor]:
    return (value for value in tree_leaves(values) if isinstance(value, torch.Tensor))


def _loop(problem: Problem) -> BlockLoop:
    """Return a block loop over centers without memory, which are never drawn."""
    state = CenterState(range(0), problem.embedding_size, device=_META, dtype=torch.float32, seed=0)
    shape = (problem.classes, problem.embedding_size)
    kinds = {"float32": torch.float32, "bf16": torch.bfloat16, "int8": torch.int8}
    state.rows = range(problem.classes)
    state.centers = torch.empty(shape, dtype=kinds[problem.centers_format], device=_META)
    state.inverse_norm = torch.empty(problem.classes, device=_META)
    state.momentum = state.momentum_scale = None
    if problem.momentum_format != "none":
        state.momentum = torch.empty(shape, dtype=kinds[problem.momentum_format], device=_META)
    if problem.momentum_format == "int8":
        state.momentum_scale = torch.empty(problem.classes, device=_META)
    state.momentum_format = problem.momentum_format
    state.serve(problem.optimizer)
    state.changes_in_place = False
    return BlockLoop(state, ArcFace(), 64.0, products=problem.products)
