"""Margin-softmax over class centers that are sharded over the ranks, without logits or a weight gradient in memory.

    head = ShardedSoftmax(num_classes, 512, margin=ArcFace(0.5), scale=64.0, seed=0)
    optimizer = head.optimizer(lr=0.1, momentum=0.9, weight_decay=5e-4)
    loss = head(embeddings, labels)
    loss.backward(); optimizer.step()

Each rank owns the centers of a range of classes. The forward gathers the unit embeddings of all ranks, walks its own
classes once (pass 1 of `block_loop.py`), exchanges three numbers per image, and has both the loss and the embeddings'
gradient; backward returns it. The optimizer's step is pass 2, which moves the centers. docs/distributed.md counts the
collectives, docs/library.md shows whole programs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from recognition.distributed.collectives import gather_rows, gather_stack, hosts_can_meet
from recognition.distributed.shards import class_range
from recognition.distributed.world import World, joined_world
from recognition.errors import ConfigError
from recognition.heads.beside import Beside
from recognition.heads.block_loop import BlockLoop, Rule
from recognition.heads.by_class import ByClass
from recognition.heads.choosing import Correction, Negatives, Sampling, Unsampled, choose
from recognition.heads.fused.path import load_path
from recognition.heads.guards import (
    check_kind,
    check_margin,
    check_ranks,
    check_span,
    check_unsampled,
    check_update,
)
from recognition.heads.kernel_choice import load_kernels
from recognition.heads.loss_function import MeasuredLoss
from recognition.heads.margins import ArcFace, Facts, Margin, State
from recognition.heads.measure import HeadResult, measure
from recognition.heads.optimizer import HeadOptimizer, center_settings
from recognition.heads.passes import Pass, join
from recognition.heads.products import Asked, Kind, check_products, product_precision, resolve_products
from recognition.heads.rows import Rows, prepared
from recognition.heads.rules import DenseGradient, Sgd
from recognition.heads.state import CentersFormat, CenterState, MomentumFormat, OptimizerKind

Mode = Literal["auto", "host", "device", "kernels"]


class ShardedSoftmax(nn.Module):
    """The loss of a batch against all classes, and the keeper of this rank's centers.

    `seed`: the first centers are a function of it and the class id. `margin`: ArcFace(0.5) when absent. `world`: this
    process's place among the ranks; that in the default process group when absent, `joined_world(device, group)` gives
    that in another. `update` "fused": pass 2 moves the centers in the step of `optimizer(...)`; "autograd": backward
    leaves a gradient of their size in `centers.grad`, for any optimizer of `parameters()`. `sample_rate` of the classes
    take part in a training step, `negatives` says which, `unsampled` what the others do. `mode`: where it is decided
    what is refused and where targets lie: on the "host" (the choice on a CPU), or on the "device" without a word to the
    host, or there with fused "kernels" where Triton has them (the choice on CUDA). `by_class`: images and weight of
    each class. The other arguments are keys of docs/configs.md.
    """

    classes: Tensor
    """This rank's range and the number of all classes. Kept as a buffer because it shows what a copy came from."""
    steps = 0
    """Steps that its optimizer was asked for, refused ones included; samples and rounding are drawn by it."""
    proxies: list[nn.Parameter]
    """What an optimizer sees of the centers that pass 2 moves: a number, whose gradient is that of the loss."""
    result: HeadResult | None = None
    """Of the last forward."""
    _overlaps = False
    given: Tensor | None = None
    """The sum of what the backwards since the last step were given (0-dim)."""

    def __init__(
        self,
        num_classes: int,
        embedding_size: int,
        *,
        margin: Margin | None = None,
        scale: float = 64.0,
        seed: int = 0,
        world: World | None = None,
        update: Literal["fused", "autograd"] = "fused",
        products: Asked = "auto",
        sub_centers: int = 1,
        sample_rate: float = 1.0,
        negatives: Negatives = "random",
        unsampled: Unsampled = "frozen",
        sampling_correction: Correction = "none",
        interclass_filtering_threshold: float = 0.0,
        label_smoothing: float = 0.0,
        by_class: ByClass | None = None,
        centers_format: CentersFormat = "float32",
        momentum_format: MomentumFormat = "float32",
        block_size: int | None = None,
        mode: Mode = "auto",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Take this rank's share of `num_classes`; see the class for the arguments."""
        super().__init__()
        self.sampling = Sampling(sample_rate, negatives, unsampled, sampling_correction)
        check_update(update, centers_format, self.sampling)
        self.world = world = world or joined_world()
        margin, self.by_class = margin or ArcFace(), (by_class or ByClass()).on(world.device)
        check_margin(margin, sub_centers, interclass_filtering_threshold, label_smoothing)
        self.facts = Facts(num_classes, scale, self.sampling.counted, seed, self.by_class.sizes)
        self.margin = margin.bind(self.facts)
        self.num_classes, self.label_smoothing = num_classes, label_smoothing
        self.class_range = class_range(num_classes, world.rank, world.size)
        self.update, self.products, self.mode = update, products, mode
        self.state = CenterState(
            self.class_range,
            embedding_size,
            has_bias=self.margin.has_bias,
            sub_centers=sub_centers,
            centers_format=centers_format,
            momentum_format=momentum_format,
            trainable=update == "autograd",
            coasts=unsampled == "coast" and update == "fused",
            device=world.device,
            dtype=dtype,
            seed=seed,
        )
        self._span = [self.class_range.start, self.class_range.stop, num_classes]
        self.register_buffer("classes", torch.tensor(self._span, device=world.device))
        self.statistics = _kept(self.margin.first(), world.device, learns_b=update == "autograd")
        scale, threshold = self.margin.fixed_scale(scale), interclass_filtering_threshold
        self._loop = BlockLoop(self.state, self.margin, scale, sub_centers, threshold, block_size=block_size)
        self._loop.smooths = label_smoothing > 0
        self.proxies = [] if update == "autograd" else [nn.Parameter(torch.zeros((), dtype=dtype, device=world.device))]
        self._pending: list[Pass] = []
        self._decides_later, self._has_met, self._beside = update == "fused", False, Beside()
        self._settle()

    @property
    def centers(self) -> Tensor:
        """This rank's centers: a parameter with update "autograd", else a buffer that pass 2 moves."""
        return self.state.centers

    @property
    def resolved_products(self) -> Kind:
        """The precision of the matrix products, where `products` is "auto" too."""
        return self._loop.products

    @property
    def asks_the_host(self) -> bool:
        """Whether a training forward wants `labels_on_host`."""
        return self.sampling.rate < 1 and self.centers.device.type == "cuda"

    @property
    def sub_centers(self) -> int:
        """Centers per class."""
        return self._loop.sub_centers

    def optimizer(
        self,
        *,
        kind: OptimizerKind = "sgd",
        lr: float | None = None,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        betas: tuple[float, float] | None = None,
        eps: float | None = None,
        backbone: torch.optim.Optimizer | None = None,
        overlap: bool = False,
    ) -> HeadOptimizer:
        """Return the optimizer whose step is pass 2: SGD or AdamW on the centers; `backbone`, another, steps with it.

        With both in one, a value that is not finite anywhere keeps both from moving, on every rank, also under
        torch.amp.GradScaler. With another `kind` than before, the centers' moments begin at zero. `betas` and `eps` are
        (0.9, 0.999) and 1e-8 when absent. With update "autograd" the centers are among the parameters of `backbone`,
        and the other arguments its own. `overlap`: pass 2 runs in the backward, see HeadOptimizer.
        """
        settings = None
        if self.update == "fused":
            given = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "betas": betas, "eps": eps}
            settings = center_settings(self, kind, **given)  # type: ignore[arg-type]
            self.state.serve(kind)
            if self._overlaps:  # the optimizer of before is to start no pass 2 any more
                self.proxies = [nn.Parameter(self.proxies[0].detach().clone())]
            self._overlaps = overlap
        elif backbone is None or lr is not None or kind != "sgd" or overlap:
            raise ConfigError(
                "head.optimizer: found update 'autograd', whose centers are a parameter; expected an optimizer that "
                "holds them as backbone=..., no lr and no overlap; or build the head with update='fused'"
            )
        self._decides_later = True
        return HeadOptimizer(self, settings=settings, backbone=backbone, overlap=overlap)

    def forward(self, embeddings: Tensor, labels: Tensor, *, labels_on_host: Tensor | None = None) -> Tensor:
        """Return the mean loss over the images of all ranks (0-dim, equal on all ranks); `result` holds the rest.

        `embeddings` [B, D] of any length, `labels` [B] int64 in range(num_classes); B is the same on every rank. The
        gradient of `embeddings` is complete, times the number of ranks, which DDP divides by. In training mode it
        leaves what `optimizer` needs; in eval mode, or under no_grad, all classes count and nothing will move.
        `labels_on_host`: where classes are sampled on a GPU, the labels of all ranks [B W] in rank order, on the host;
        without them a forward waits for the device to know how many classes of its own the batch has.
        """
        self._meet(len(embeddings))
        self._beside.join()
        with self._precision():
            gathered = gather_rows(prepared(self.margin, embeddings.to(self.state.dtype)), self.world)
            label_N = gather_stack(labels, self.world).flatten()
            weights = self.by_class.weights
            rows = Rows.of(self.margin, gathered.detach(), label_N, first_class=self.class_range.start, weights=weights)
            learns = self.training and torch.is_grad_enabled()
            active, targets = choose(
                self._loop,
                rows,
                self.class_range,
                self.sampling if learns and self.sampling.rate < 1 else None,
                step=self.steps,
                labels_on_host=labels_on_host,
                on_host=self._on_host,
            )
            self.result, passed, gradients = measure(
                self._loop,
                rows,
                active,
                targets,
                margin_state=self._pending[-1].part.learned if self._pending else self._learned(),
                learns=learns,
                wants_dx=torch.is_grad_enabled() and gathered.requires_grad,
                smoothing=self.label_smoothing,
                world=self.world,
            )
        anchor = (self.centers if self.update == "autograd" else self.proxies[0]) if learns else None
        number = next(self.statistics.parameters(), None) if learns else None
        loss: Tensor = MeasuredLoss.apply(self.result.loss, gathered, anchor, number, self, passed, gradients)  # type: ignore[no-untyped-call]
        return loss

    def state_rows(self) -> dict[str, Tensor]:
        """Return this rank's stored tensors by name; row i is of class class_range.start + i // sub_centers."""
        self._beside.join()
        return self.state.stored()

    def coast_state(self) -> dict[str, Tensor]:
        """Return what coasting rows have missed, by name; equal on all ranks, and empty where none coasts."""
        return {} if self.state.coast is None else self.state.coast.shared()

    def margin_state(self) -> dict[str, Tensor]:
        """Return what the margin keeps from batch to batch, by name; equal on all ranks."""
        self._beside.join()
        learned = {name: value.detach() for name, value in self.statistics.named_parameters()}
        return {**learned, **dict(self.statistics.named_buffers())}

    def load_rows(self, name: str, start: int, rows: Tensor) -> None:
        """Copy those of `rows` that this rank owns into its stored tensor `name`; they begin at class `start`."""
        stored = self.state.stored()[name]
        first = start * self.sub_centers
        own = self.state.rows
        begin, end = max(first, own.start), min(first + len(rows), own.stop)
        if begin < end:
            with torch.no_grad():
                stored[begin - own.start : end - own.start].copy_(rows[begin - first : end - first])

    def set_centers(self, start: int, centers: Tensor) -> None:
        """Copy those of the float rows `centers` that this rank owns; they begin at class `start`, grouped by class."""
        own, first = self.state.rows, start * self.sub_centers
        local = torch.arange(max(first, own.start), min(first + len(centers), own.stop)) - own.start
        self.state.catch_up_(local.to(self.centers.device), step=self.steps)
        self.load_rows("centers", start, centers)

    def current_centers(self) -> Tensor:
        """Return a copy of this rank's centers as they are by now; `centers` has rows that coast as last written."""
        self._beside.join()
        return self.state.current()

    def forget(self) -> None:
        """Drop what backwards since the last step have left, as zero_grad drops gradients."""
        self._beside.join()
        self._pending.clear()
        self.given = None
        for proxy in self.proxies:
            proxy.grad = None

    @torch.no_grad()
    def descend(self, make_rule: Callable[[int, Tensor | None], Rule], factor: Tensor, refused: Tensor) -> None:
        """Pass 2 over the rows of all backwards since the last step, unless `refused` (0-dim bool, equal on all ranks).

        `make_rule(number of the step, refused or None)` gives what moves the blocks; `factor` scales the gradient.
        """
        passes, self._pending = self._pending, []
        if self.result is not None:
            self.result = replace(self.result, refused=refused)
        number, self.steps = self.steps, self.steps + 1
        if self._on_host and refused.item():
            return
        if any(passed.version != self.centers._version for passed in passes):
            raise RuntimeError("step after the centers have moved since its forward: load states before it")
        if passes:
            self._keep(passes[-1].part.learned, refused)
        if passes and self.update == "fused":
            with self._precision():
                rule = make_rule(number, None if self._on_host else refused)
                self._move_scalar(passes, factor, rule, refused)
                descent = join(passes, factor, on_host=self._on_host)
                self._loop.second_pass(descent, rule)
                if self.state.coast is not None:
                    assert isinstance(rule, Sgd), "only SGD's steps are known to coasting rows"
                    rule.follow_(self.state, descent.active)

    def descend_beside(self, make_rule: Callable[[int, Tensor | None], Rule], factor: Tensor, refused: Tensor) -> None:
        """Start `descend` beside what the device does next; `forget`, the next forward and all that reads rows wait."""
        keep = (self._pending, factor, refused)
        self._beside.run(lambda: self.descend(make_rule, factor, refused), self.centers.device, keep=keep)

    def accept(self, passed: Pass, gradient: Tensor) -> Tensor | None:
        """Note what backward was given; with update "autograd" return the centers' gradient [C_r, D]."""
        if any(passed is other for other in self._pending):
            passed.factor = passed.given + gradient
        else:
            passed.factor = gradient
            if self._decides_later:
                self._pending.append(passed)
        if self.update == "fused":
            self.given = gradient if self.given is None else self.given + gradient  # as autograd sums the proxy's
            return None
        is_bad = passed.is_broken | ~gradient.isfinite()
        if not self._decides_later:
            self._keep(passed.part.learned, is_bad)
            self.steps += 1  # what an optimizer does with the gradient is not seen
        weights_CD = torch.zeros_like(self.centers)
        if self._on_host and is_bad.item():
            return weights_CD
        with self._precision():
            alone = [replace(passed, factor=gradient)]
            descent = join(alone, torch.ones_like(gradient), on_host=self._on_host)
            self._loop.second_pass(descent, DenseGradient(weights_CD))
        return weights_CD if self._on_host else weights_CD.masked_fill_(is_bad, 0.0)

    def verdict(self) -> Tensor:
        """Return whether a backward since the last step met a value that is not finite (0-dim bool; not yet shared)."""
        flags = [passed.is_broken | ~passed.given.isfinite() for passed in self._pending]
        return torch.stack(flags).any() if flags else torch.zeros((), dtype=torch.bool, device=self.centers.device)

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        """Hold autocast off, and the products as they were asked for."""
        with (
            torch.autocast(self.centers.device.type, enabled=False),
            product_precision(self._loop.products, self.centers.device),
        ):
            yield

    def _learned(self) -> State:
        # Copies: pass 2 needs what this forward used, after the step has taken over what it has learned.
        return {name: value.clone() for name, value in self.margin_state().items()}

    def _keep(self, state: State, refused: Tensor) -> None:
        """Take over what the margin has learned of an accepted step."""
        for name, kept in self.statistics.named_buffers():
            kept.copy_(torch.where(refused, kept, state[name]))

    def _move_scalar(self, passes: list[Pass], factor: Tensor, rule: Rule, refused: Tensor) -> None:
        """Move the number b that all classes share, where the margin has one, as `rule` moves the centers."""
        gradients = [each.scalar_gradient * each.given * factor for each in passes if each.scalar_gradient is not None]
        if not gradients:
            return
        self._keep(rule.moved(self.margin_state(), torch.stack(gradients).sum().double()), refused)

    def _meet(self, batch: int) -> None:
        """See that the ranks agree. Where their hosts cannot talk (NCCL alone), at the first forward only."""
        if self.world.size == 1 or (self._has_met and not hosts_can_meet(self.world)):
            return
        looks = self._on_host or not self._has_met  # on CUDA it is a wait for the device
        check_ranks(batch, keeps_own=not looks or self.classes.tolist() == self._span, world=self.world)
        self._has_met = True

    def _settle(self) -> None:
        """Follow the state to where it is now."""
        device = self.centers.device
        self.world = replace(self.world, device=device)
        mode = self.mode if self.mode != "auto" else "host" if device.type != "cuda" else "kernels"
        # On CUDA nothing waits for the device: what is refused, and where the targets lie, is decided there.
        self._on_host = mode == "host"
        self.state.changes_in_place = self._on_host
        self._loop.products = resolve_products(self.products, device)
        check_products(self._loop.products, device)
        self._loop.kernels = self._loop.fused = None
        if mode == "kernels" and self.state.coast is None:
            self._loop.kernels = load_kernels(self._loop)
            self._loop.fused = load_path(self._loop)
        for proxy in self.proxies:
            if proxy.device != device or proxy.dtype != self.state.dtype:
                proxy.data = proxy.data.to(device, self.state.dtype)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ShardedSoftmax:
        self.state.check_cast(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for value in (*self.statistics.buffers(), *self.statistics.parameters()):
            value.data = value.data.double()  # whatever the centers are
        self._settle()
        return self

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}steps"] = torch.tensor(self.steps)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        held = state_dict.get(f"{prefix}classes")
        if held is not None:
            check_span(held.tolist(), self._span, self.world)
            check_kind(f"{prefix}state.second_moment" in state_dict, self.state.kind, "head")
            check_unsampled(f"{prefix}state.coast.clock" in state_dict, self.state.coast is not None, "head: the state")
        if f"{prefix}steps" in state_dict:
            self.steps = int(state_dict[f"{prefix}steps"])
        present = {key: value for key, value in state_dict.items() if key != f"{prefix}steps"}
        super()._load_from_state_dict(present, prefix, *args)


def _kept(tensors: State, device: torch.device, *, learns_b: bool) -> nn.Module:
    """Return a module of buffers; with `learns_b` a number "b" is a parameter, and has no moments beside it."""
    module = nn.Module()
    for name, value in tensors.items():
        if learns_b and name == "b":
            module.register_parameter(name, nn.Parameter(value.to(device)))
        elif not (learns_b and name.startswith("b_")):
            module.register_buffer(name, value.to(device))
    return module
