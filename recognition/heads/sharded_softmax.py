"""Margin-softmax over class centers that are sharded over the ranks, without logits or a weight gradient in memory.

Each rank owns the centers of a range of classes. A step gathers the unit embeddings of all ranks, sums exp(z) over
its own classes block by block (pass 1), exchanges three numbers per image, and walks its blocks again to form the
embeddings' gradient and move the centers (pass 2; `block_loop.py` has the algebra). docs/distributed.md counts the
collectives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from recognition.config.schema import HeadConfig
from recognition.distributed.collectives import all_reduce_sum_, gather_rows, gather_stack
from recognition.distributed.shards import class_range
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.heads.block_loop import BlockLoop, Descent, GradientSink, StateUpdate, load_kernels
from recognition.heads.margins import make_margin
from recognition.heads.products import check_products, product_precision
from recognition.heads.sampling import Active, Targets, random_scores, sample_classes
from recognition.heads.state import CenterState


@dataclass(frozen=True)
class _Step:
    """What `begin_step` was told."""

    number: int
    lr: float
    loss_scale: float | Tensor


@dataclass
class _Pass:
    """What pass 1 leaves for pass 2."""

    loss: Tensor
    x: Tensor  # [N, D]
    descent: Descent
    active: Active
    targets: Targets
    is_broken: Tensor  # 0-dim bool: something that all ranks share is not finite
    step: _Step | None
    version: int  # of the centers
    factor: Tensor | None = None  # set by backward when the update is deferred


class ShardedSoftmax(nn.Module):
    """The loss of a batch against all classes, and the keeper of this rank's centers.

    In training: begin_step, forward, backward, finish_step. `update` "fused" moves the centers during backward,
    "deferred" in finish_step, "autograd" leaves a gradient in the parameter `centers` for an optimizer.
    """

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        world: World,
        config: HeadConfig,
        seed: int,
        momentum: float,
        weight_decay: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        _check(config)
        check_products(config.products, world.device)
        self.world = world
        self.config = config
        self.class_range = class_range(num_classes, world.rank, world.size)
        self.sampled: Tensor | None = None
        """The local ids of the classes that took part in the last forward; None when all did."""
        self.stats: dict[str, Tensor] = {}
        self.rows: dict[str, Tensor] = {}
        """Target cosine and hardest negative of every image of the last forward [N], equal on all ranks."""
        self.refused = torch.zeros((), device=world.device)
        self._sgd = (momentum, weight_decay)
        # On CUDA nothing waits for the device: what is refused, and where the targets lie, is decided there.
        self._on_host = world.device.type == "cpu"
        self._margin = make_margin(*config.margins, gradient=config.margin_gradient)
        self._state = CenterState(
            self.class_range, embedding_size, config=config, device=world.device, dtype=dtype, seed=seed
        )
        self._loop = BlockLoop(
            self._state,
            config.scale,
            config.sub_centers,
            config.interclass_filtering_threshold,
            config.products,
            config.block_size,
            load_kernels(world.device, dtype, scale=config.scale, sub_centers=config.sub_centers),
        )
        self._step: _Step | None = None
        self._pending: _Pass | None = None
        if config.update == "autograd":
            self.centers = nn.Parameter(self._state.centers)
        else:
            self.register_buffer("centers", self._state.centers, persistent=False)

    def begin_step(self, *, step: int, lr: float, loss_scale: float | Tensor = 1.0) -> None:
        """Announce a training step: its number, the run's learning rate (the centers' is `lr_factor` times that), and
        the factor the loss will be scaled by."""
        assert self._pending is None, "the step before was deferred and not finished; call finish_step"
        self._step = _Step(step, lr * self.config.lr_factor, loss_scale)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the mean loss over the images of all ranks (0-dim, equal on all ranks).

        `embeddings` [B, D] of any length, `labels` [B] int64 in range(num_classes); B is the same on every rank. The
        gradient of `embeddings` is complete, times the number of ranks, which DDP divides by.
        """
        with self._precision():
            x = normalize(embeddings.to(self._state.dtype))
            if torch.is_grad_enabled() and not x.requires_grad:
                x.requires_grad_()  # a frozen backbone still lets the centers learn
            gathered = gather_rows(x, self.world)
            everyones = gather_stack(labels, self.world).flatten()
            centers = self.centers if self.config.update == "autograd" else None
            loss: Tensor = _Softmax.apply(gathered, centers, self, everyones)
            return loss

    def finish_step(self, refused: Tensor) -> None:
        """Take the centers' deferred step unless `refused` (0-dim, not zero: refused). Nothing in the other modes."""
        passed, self._pending = self._pending, None
        if passed is None:
            return
        keep = refused.bool()
        if self._on_host and keep.item():
            return
        assert passed.factor is not None, "finish_step before backward"
        with torch.no_grad(), self._precision():
            sink = self._state_update(passed, passed.factor, keep)
            self._loop.descend(passed.descent, passed.active, passed.targets, passed.factor, sink=sink, want_dx=False)

    def state_rows(self) -> dict[str, Tensor]:
        """Return this rank's stored tensors by name; row i is of class class_range.start + i // sub_centers."""
        return self._state.named()

    def load_rows(self, name: str, start: int, rows: Tensor) -> None:
        """Copy those of `rows` that this rank owns into its stored tensor `name`; they begin at class `start`."""
        stored = self._state.named()[name]
        first = start * self.config.sub_centers
        own = self._state.rows
        begin, end = max(first, own.start), min(first + len(rows), own.stop)
        if begin < end:
            with torch.no_grad():
                stored[begin - own.start : end - own.start].copy_(rows[begin - first : end - first])

    def set_centers(self, start: int, centers: Tensor) -> None:
        """Copy those of the float rows `centers` that this rank owns; they begin at class `start`, grouped by class."""
        self.load_rows("centers", start, centers)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Hold autocast off, and the products as the config wants them."""
        with torch.autocast(self._state.centers.device.type, enabled=False), product_precision(self.config.products):
            yield

    def _measure(self, x: Tensor, labels: Tensor) -> _Pass:
        """Pass 1 and the exchange."""
        step, self._step = self._step, None
        assert step is None or self.training, "begin_step announces a training step, but the head is in eval mode"
        local = labels - self.class_range.start
        x_scaled = x * self.config.scale
        active = Active(len(self.class_range), self.config.sub_centers)
        if self.config.sample_rate < 1 and step is not None:
            active = self._sample(active, x_scaled, local, step)
        targets = Targets(active.positions(local), on_host=self._on_host)
        cosine, norms = self._own_cosines(x, local)
        self.sampled = active.sample
        largest, total = self._loop.sum_negatives(x_scaled, active, targets)
        largest, total, cosine = self._exchange(largest, total, cosine)
        logit, derivative = self._margin(cosine)
        logit = logit * self.config.scale
        lse_negatives = total.log() if self._loop.is_bounded else total.log() + largest
        lse = torch.logaddexp(lse_negatives, logit)
        # A NaN of an image, an embedding or a center is in a sum or in a cosine by now, on every rank.
        is_broken = ~(total.isfinite() & largest.isfinite() & logit.isfinite() & derivative.isfinite()).all()
        self._note(cosine, largest / self.config.scale)
        return _Pass(
            loss=functional.softplus(lse_negatives - logit, threshold=1e4).mean().to(x.dtype),
            x=x,
            descent=self._loop.prepare(
                x_scaled, lse_negatives=lse_negatives, lse=lse, derivative=derivative, norms=norms
            ),
            active=active,
            targets=targets,
            is_broken=is_broken,
            step=step,
            version=self.centers._version,
        )

    def _sample(self, everything: Active, x_scaled: Tensor, local: Tensor, step: _Step) -> Active:
        if self.config.negatives == "nearest":
            scores = self._loop.nearest(
                x_scaled, everything, Targets(everything.positions(local), on_host=self._on_host)
            )
        else:
            scores = random_scores(
                len(everything), seed=self._state.seed, step=step.number, rank=self.world.rank, device=local.device
            )
        sample = sample_classes(scores, local, self.config.sample_rate, on_host=self._on_host)
        return Active(everything.num_local, everything.sub_centers, sample)

    def _own_cosines(self, x: Tensor, local: Tensor) -> tuple[Tensor, Tensor]:
        """Return float64 cosines of the rows whose class is here (0 elsewhere), and their centers' inverse norms.

        In float64 because a loss of 1e-5 is the difference of logits near 64. The norms are 1 where a class has
        several centers.
        """
        if not len(self.class_range):
            return x.new_zeros(len(x), dtype=torch.float64), x.new_ones(len(x), dtype=torch.float64)
        per_class = self.config.sub_centers
        rows = local.clamp(0, len(self.class_range) - 1).unsqueeze(1) * per_class
        rows = rows + torch.arange(per_class, device=rows.device)  # [N, K]
        centers = self._state.centers.detach()[rows].double()  # [N, K, D]
        norms = torch.linalg.vector_norm(centers, dim=2).clamp_min_(1e-12).reciprocal_()
        cosine = (torch.einsum("nkd,nd->nk", centers, x.double()) * norms).amax(1)
        is_own = (local >= 0) & (local < len(self.class_range))
        return torch.where(is_own, cosine, 0.0), norms[:, 0] if per_class == 1 else torch.ones_like(cosine)

    def _exchange(self, largest: Tensor, total: Tensor, cosine: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return over all ranks the largest negative logit, the sum of exp, and the target's cosine, each [N].

        One gather of [3, N] float64 and the same arithmetic everywhere: equal bits on all ranks, and no NaN is lost.
        """
        everyones = gather_stack(torch.stack([largest, total, cosine]), self.world)  # [W, 3, N]
        overall = everyones[:, 0].amax(0)
        totals = everyones[:, 1]
        if not self._loop.is_bounded:
            totals = totals * (everyones[:, 0] - overall).exp()
        return overall, totals.sum(0), everyones[:, 2].sum(0)

    def _note(self, cosine: Tensor, hardest: Tensor) -> None:
        self.rows = {"target_cosine": cosine.detach(), "hardest_negative": hardest.detach()}
        self.stats = {
            "top1": (cosine > hardest).to(torch.float32).mean(),
            "target_cosine": cosine.mean().float(),
            "hardest_negative": hardest.clamp_min(-1).mean().float(),
        }

    def _descend(self, passed: _Pass, gradient: Tensor) -> tuple[Tensor, Tensor | None]:
        """Pass 2: decide on every rank alike; return (dx [N, D], the centers' gradient or None), move the centers."""
        scale = 1.0 if passed.step is None else passed.step.loss_scale
        factor = gradient / scale
        is_bad = (~(gradient.isfinite() & factor.isfinite())).to(torch.float32)
        refused = (all_reduce_sum_(is_bad, self.world) > 0) | passed.is_broken
        self.refused = refused.to(torch.float32)
        wants_gradient = self.config.update == "autograd"
        weights = torch.zeros_like(self._state.centers) if wants_gradient else None
        if self._on_host and refused.item():
            return torch.zeros_like(passed.x), weights
        sink: GradientSink | StateUpdate | None = None
        if weights is not None:
            factor = gradient
            sink = GradientSink(self._loop, self._weighted(passed, factor), weights)
        elif self.config.update == "fused":
            sink = self._state_update(passed, factor, refused)
        else:
            passed.factor = factor
            self._pending = passed
        dx = self._loop.descend(passed.descent, passed.active, passed.targets, factor, sink=sink).mul_(gradient)
        return torch.where(refused, 0.0, dx), weights

    def _state_update(self, passed: _Pass, factor: Tensor, refused: Tensor) -> StateUpdate:
        assert passed.step is not None, "call begin_step before the forward of a training step"
        momentum, weight_decay = self._sgd
        return StateUpdate(
            self._loop,
            self._weighted(passed, factor),
            lr=passed.step.lr,
            momentum=momentum,
            weight_decay=weight_decay,
            step=passed.step.number,
            refused=None if self._on_host else refused,
        )

    def _weighted(self, passed: _Pass, factor: Tensor) -> Tensor:
        return passed.x * (passed.descent.weight * factor).unsqueeze(1)


class _Softmax(torch.autograd.Function):
    """The loss of gathered unit embeddings, with pass 2 as its backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, centers: Tensor | None, head: ShardedSoftmax, labels: Tensor) -> Tensor:
        ctx.head = head
        ctx.passed = head._measure(x, labels)
        loss: Tensor = ctx.passed.loss
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        head, passed = ctx.head, ctx.passed
        if passed is None:
            raise RuntimeError("backward a second time: the centers have moved; run the forward again")
        if passed.version != head.centers._version:
            raise RuntimeError("backward after the centers have moved: take a step's backward before the next one's")
        if head.config.update != "autograd":
            ctx.passed = None
        with head._precision():
            dx, weights = head._descend(passed, gradient)
        return dx, weights, None, None


def normalize(embeddings: Tensor) -> Tensor:
    """Return the rows at length 1. Those shorter than 1e-12 become zero, their gradient too; huge ones are safe."""
    # A row and its direction do not change by a constant factor, so the factor needs no gradient.
    largest = embeddings.detach().abs().amax(1, keepdim=True)
    factor = torch.where(largest < 1e-12, torch.zeros_like(largest), largest.reciprocal())
    scaled = embeddings * factor  # the largest entry is now 1 or the row is zero, so the length is at least 1 or is 0
    return scaled / torch.linalg.vector_norm(scaled, dim=1, keepdim=True).clamp_min(1)


def _check(config: HeadConfig) -> None:
    if config.update == "autograd" and (config.sample_rate < 1 or config.centers_format != "float32"):
        raise ConfigError(
            "head.update: found 'autograd' with sample_rate below 1 or bf16 centers, but an optimizer moves every row, "
            "in float32; use head.update=fused or deferred"
        )
