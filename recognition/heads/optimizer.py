"""The optimizer of a sharded head: an ordinary torch optimizer whose step is pass 2 over the blocks of centers.

It decides once for head and backbone: a step counts for both on every rank, or for none on any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recognition.distributed.collectives import all_reduce_sum_
from recognition.errors import ConfigError
from recognition.heads.rules import Sgd
from recognition.optim.groups import step_unless

if TYPE_CHECKING:
    from recognition.heads.sharded_softmax import ShardedSoftmax


class HeadOptimizer(torch.optim.Optimizer):
    """SGD on a head's centers, and with it the step of the backbone's optimizer.

    Its own parameter is a number whose `.grad` is what backward was given: 1, or the loss scale. So GradScaler can
    unscale it, and look at it, like any other. Rates, momentum and weight decay are read from `param_groups` at the
    step; the groups of `backbone` follow that of the head and are its own. The centers' momentum is in the head's
    state, not here. Several backwards before a step are one step over all their rows.
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
        lr: float | None,
        momentum: float,
        weight_decay: float,
        backbone: torch.optim.Optimizer | None,
    ) -> None:
        groups: list[dict[str, Any]] = []
        if head.update == "fused":
            group = {"params": head.proxies, "lr": lr, "momentum": momentum, "weight_decay": weight_decay}
            groups.append(group)
        if backbone is not None:
            groups.extend(backbone.param_groups)
        super().__init__(groups, {})
        self.defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}  # what schedulers look at
        if backbone is not None:
            self.state = backbone.state
        self.head = head
        self.backbone = backbone
        self.refused = torch.zeros((), dtype=torch.bool, device=head.centers.device)
        """Whether the last step moved nothing (0-dim bool, equal on all ranks)."""
        self._is_complete = True

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

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over rates and the backbone optimizer's state; the centers' momentum comes with the head's state."""
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
        factor = self._factor(grad_scale)
        refused = self._decide(factor, found_inf)
        if self.backbone is not None:
            step_unless(self.backbone, refused.float(), grad_scale=grad_scale)
        group = self.param_groups[0]

        def rule(number: int, unless: Tensor | None) -> Sgd:
            return Sgd(float(group["lr"]), group["momentum"], group["weight_decay"], number, unless)

        self.head.descend(rule, factor, refused)
        self.head.forget()
        self.refused = refused
        return loss

    def _factor(self, grad_scale: Tensor | None) -> Tensor:
        """Return what the backwards' gradients are to be multiplied by: 1, or 1 / the loss scale."""
        given = self.head.given
        factor = torch.ones_like(self.refused, dtype=self.head.state.dtype)
        for proxy in self.head.proxies:
            if given is not None and proxy.grad is not None:
                # unscale_ has changed the proxy's gradient like any other. Without it this is exactly 1.
                factor = torch.where(given == 0, factor, proxy.grad / given)
        return factor if grad_scale is None else factor / grad_scale.to(factor.dtype)

    def _decide(self, factor: Tensor, found_inf: Tensor | None) -> Tensor:
        """Return whether the step is refused, on every rank alike."""
        is_bad = self.head.verdict() | ~factor.isfinite()
        if found_inf is not None:
            is_bad = is_bad | (found_inf > 0)
        elif self.backbone is not None:
            gradients = [p.grad for group in self.backbone.param_groups for p in group["params"] if p.grad is not None]
            if gradients:
                is_bad = is_bad | ~torch.nn.utils.get_total_norm(gradients).isfinite()
        return all_reduce_sum_(is_bad.to(torch.float32), self.head.world) > 0
