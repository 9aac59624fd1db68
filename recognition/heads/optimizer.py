"""The optimizer of a sharded head: an ordinary torch optimizer whose step is pass 2 over the blocks of centers.

It decides once for head and backbone: a step counts for both on every rank, or for none on any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recognition.distributed.collectives import all_reduce_sum_
from recognition.errors import CheckpointError, ConfigError
from recognition.heads.adamw import AdamW
from recognition.heads.block_loop import Rule
from recognition.heads.rules import Sgd
from recognition.heads.state import OptimizerKind
from recognition.optim.groups import step_unless

if TYPE_CHECKING:
    from recognition.heads.sharded_softmax import ShardedSoftmax


_NAMES = ("SGD", "AdamW")


def center_settings(
    head: ShardedSoftmax,
    kind: OptimizerKind,
    *,
    lr: float | None,
    momentum: float,
    weight_decay: float,
    betas: tuple[float, float] | None,
    eps: float | None,
) -> dict[str, Any]:
    """Return the group of the centers; ConfigError where a setting is not of `kind`, or `head` keeps no moments."""
    if lr is None:
        raise ConfigError("head.optimizer: found no lr; expected the centers' learning rate; state lr=...")
    if kind not in ("sgd", "adamw"):
        raise ConfigError(f"head.optimizer: found kind={kind!r}; expected 'sgd' or 'adamw'")
    keeps_moments = head.state.momentum is not None
    if kind == "sgd":
        if betas is not None or eps is not None:
            raise ConfigError("head.optimizer: found betas or eps with SGD; they are AdamW's; set kind='adamw'")
        if momentum and not keeps_moments:
            raise ConfigError(
                f"head.optimizer: found momentum={momentum:g} and a head that keeps none (momentum_format 'none'); "
                "expected one or the other; set momentum=0 or build the head with another momentum_format"
            )
        return {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
    if head.state.coast is not None:
        raise ConfigError(
            "head.optimizer: found AdamW and a head whose unsampled rows coast, which is a rule of SGD; build the head "
            "with unsampled='frozen', or with update='autograd' and torch.optim.AdamW"
        )
    if momentum:
        raise ConfigError(f"head.optimizer: found momentum={momentum:g} with AdamW, which has betas; leave it out")
    if not keeps_moments:
        raise ConfigError(
            "head.optimizer: found AdamW and a head that keeps no moments (momentum_format 'none'); build the head "
            "with another momentum_format"
        )
    betas, eps = betas or (0.9, 0.999), 1e-8 if eps is None else eps
    if not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas) and eps > 0):
        raise ConfigError(
            f"head.optimizer: found betas={betas} and eps={eps:g}; expected two numbers at least 0 and below 1, and "
            "eps above 0, since the second moment of a center that no gradient has reached is 0"
        )
    return {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}


class HeadOptimizer(torch.optim.Optimizer):
    """SGD or AdamW on a head's centers, and with it the step of the backbone's optimizer.

    Its own parameter is a number whose `.grad` is what backward was given: 1, or the loss scale. So GradScaler can
    unscale it, and look at it, like any other. Rates, momentum, betas and weight decay are read from `param_groups` at
    the step; the groups of `backbone` follow that of the head and are its own. The centers' momentum or moments are in
    the head's state, not here. Several backwards before a step are one step over all their rows.

    With `overlap` the head's backward starts pass 2, beside the rest of the backward, and `step` is left with the
    backbone. What refuses the centers' step is then what the head itself has met, on any rank; what refuses the
    backbone's is that and its own gradients, so that a step may move the centers alone. Not under a loss scale, which
    is chosen too large on purpose. Backwards before the last one of a step belong into `no_overlap`.
    """

    grad_scale: Tensor | None
    """Where they are set (as GradScaler does): what gradients are still to be divided by, and what it has found."""
    found_inf: Tensor
    _is_complete = False
    _step_supports_amp_scaling = True  # GradScaler then leaves the decision to `step`, which all ranks enter

    def __init__(
        self,
        head: ShardedSoftmax,
        *,
        settings: dict[str, Any] | None,
        backbone: torch.optim.Optimizer | None,
        overlap: bool = False,
    ) -> None:
        """Drive `head` by the `settings` that `center_settings` gives; None: its centers are in `backbone`."""
        groups: list[dict[str, Any]] = []
        if settings is not None:
            groups.append({"params": head.proxies, **settings})
        if backbone is not None:
            groups.extend(backbone.param_groups)
        super().__init__(groups, {})
        self.defaults = dict(settings or {})  # what schedulers look at
        self.kind: OptimizerKind = head.state.kind
        if backbone is not None:
            self.state = backbone.state
        self.head = head
        self.backbone = backbone
        self.refused = torch.zeros((), dtype=torch.bool, device=head.centers.device)
        """Whether the last step moved nothing (0-dim bool, equal on all ranks)."""
        self._started: Tensor | None = None
        self._holds_back = False
        if overlap:
            head.proxies[0].register_post_accumulate_grad_hook(self._start)
        self._is_complete = True

    @contextlib.contextmanager
    def no_overlap(self) -> Iterator[None]:
        """Let backwards inside start nothing: a later one of the same step, or the step, takes their rows too."""
        before, self._holds_back = self._holds_back, True
        try:
            yield
        finally:
            self._holds_back = before

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group to the backbone's optimizer."""
        if not self._is_complete:
            super().add_param_group(param_group)
        elif self.backbone is not None:
            self.backbone.add_param_group(param_group)
            self.param_groups.append(self.backbone.param_groups[-1])
        else:
            raise ConfigError(
                "head.optimizer: found a group of parameters and no optimizer for them; expected the centers alone; "
                "pass head.optimizer(..., backbone=an optimizer of theirs)"
            )

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop all gradients, and what backwards have left for the centers."""
        super().zero_grad(set_to_none)
        self.head.forget()
        self._started = None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over rates and the backbone optimizer's state; the centers' momentum comes with the head's state.

        Raises CheckpointError where it is of another optimizer of the centers.
        """
        if self.head.proxies:
            held, own = ("betas" in group for group in (state_dict["param_groups"][0], self.param_groups[0]))
            if held != own:
                raise CheckpointError(
                    f"head.optimizer: the state is of {_NAMES[held]}; expected that of {_NAMES[own]}; make the "
                    f"optimizer it was saved from: head.optimizer(kind={'adamw' if held else 'sgd'!r}, ...)"
                )
        super().load_state_dict(state_dict)
        if self.backbone is not None:
            self.backbone.state = self.state
            self.backbone.param_groups = self.param_groups[len(self.param_groups) - len(self.backbone.param_groups) :]

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move centers and backbone, or neither where anything is not finite on any rank. Returns the closure's loss.

        Collective: one sum of a flag. On CUDA no value travels to the host, if the backbone's optimizer is a fused one.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if any(proxy.grad is None for proxy in self.head.proxies):
            self.head.forget()  # somebody has dropped the gradients
        started, self._started = self._started, None
        if started is not None and grad_scale is not None:
            raise ConfigError(
                "head.optimizer: found a GradScaler with overlap, whose pass 2 has run before the loss scale was known "
                "to fit; expected one or the other; train in bfloat16, or build the optimizer without overlap"
            )
        factor = self._factor(grad_scale)
        refused = self._decide(self.head.verdict() if started is None else started, factor, found_inf)
        if self.backbone is not None:
            step_unless(self.backbone, refused.float(), grad_scale=grad_scale)
        if started is None:
            self.head.descend(self._rule, factor, refused)
        self.head.forget()
        self.refused = refused
        return loss

    @torch.no_grad()
    def _start(self, proxy: Tensor) -> None:
        """Run pass 2 once a backward has been through the head. Collective: one sum of a flag."""
        if self._holds_back:
            return
        if self._started is not None:
            raise RuntimeError(
                "a second backward through the head since the last step, and the first has moved the centers: take all "
                "but the last of a step inside `with optimizer.no_overlap():`"
            )
        self._started = all_reduce_sum_(self.head.verdict().to(torch.float32), self.head.world) > 0
        self.head.descend_beside(self._rule, torch.ones_like(proxy), self._started)

    def _rule(self, number: int, refused: Tensor | None) -> Rule:
        """Return what moves the blocks in step `number`."""
        group = self.param_groups[0]
        lr, weight_decay = float(group["lr"]), float(group["weight_decay"])
        if self.kind == "adamw":
            return AdamW(lr, group["betas"], group["eps"], weight_decay, number, refused)
        return Sgd(lr, group["momentum"], weight_decay, number, refused)

    def _factor(self, grad_scale: Tensor | None) -> Tensor:
        """Return what the backwards' gradients are to be multiplied by: 1, or 1 / the loss scale."""
        given = self.head.given
        factor = torch.ones_like(self.refused, dtype=self.head.state.dtype)
        for proxy in self.head.proxies:
            if given is not None and proxy.grad is not None:
                # unscale_ has changed the proxy's gradient like any other. Without it this is exactly 1.
                factor = torch.where(given == 0, factor, proxy.grad / given)
        return factor if grad_scale is None else factor / grad_scale.to(factor.dtype)

    def _decide(self, of_head: Tensor, factor: Tensor, found_inf: Tensor | None) -> Tensor:
        """Return whether the step is refused, on every rank alike."""
        is_bad = of_head | ~factor.isfinite()
        if found_inf is not None:
            is_bad = is_bad | (found_inf > 0)
        elif self.backbone is not None:
            gradients = [p.grad for group in self.backbone.param_groups for p in group["params"] if p.grad is not None]
            if gradients:
                is_bad = is_bad | ~torch.nn.utils.get_total_norm(gradients).isfinite()
        return all_reduce_sum_(is_bad.to(torch.float32), self.head.world) > 0
