"""Optimizers whose step can be refused on the device, and the groups of parameters they see."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from recognition.config.schema import OptimConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter],
    optim: OptimConfig,
    *,
    decay_all: bool,
    layers: Sequence[Sequence[nn.Parameter]] = (),
    centers: Sequence[nn.Parameter] = (),
    lr_factor: float = 1.0,
) -> torch.optim.Optimizer:
    """Return SGD or AdamW over `parameters`, with every state tensor in place before the first step.

    The fused kernels are used on CPU and CUDA alike, because they take a refusal (`refuse`) as a tensor: no value
    travels to the host. `decay_all` applies weight decay to every parameter, as the published SGD recipes do;
    otherwise vectors (norms, biases, PReLU slopes) are left out. `layers` hold parameters from the first layer to the
    last: the rate of each is `optim.layer_decay` of the next one's, and what is in none has the last one's. `centers`,
    where they are parameters, come last and get from `set_lr` the run's rate times `lr_factor`.
    """
    known = {parameter for layer in layers for parameter in layer}
    rest = [parameter for parameter in parameters if parameter not in known]
    groups = []
    for index, layer in enumerate([*layers, rest]):
        factor = optim.layer_decay ** max(0, len(layers) - 1 - index)
        for group in _decay_groups([p for p in layer if p.requires_grad], optim.weight_decay, decay_all):
            groups.append(group if factor == 1.0 else {**group, "lr_factor": factor})
    if centers:
        groups.append({"params": list(centers), "weight_decay": optim.weight_decay, "lr_factor": lr_factor})
    optimizer: torch.optim.Optimizer
    if optim.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=True)
    _prime_state(optimizer)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate of this step, times the factor it has."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_factor", 1.0)


def step_unless(
    optimizer: torch.optim.Optimizer, refused: torch.Tensor, *, grad_scale: torch.Tensor | None = None
) -> None:
    """Take the optimizer's step, or leave parameters and state bit-identical where `refused` is 1 (0-dim, float32).

    Gradients are divided by `grad_scale` first. A fused optimizer on CUDA decides on the device; any other is asked
    for its step only if it counts.
    """
    decides = getattr(optimizer, "_step_supports_amp_scaling", False)
    if not (decides and refused.device.type == "cuda") and refused.item():
        return
    if not decides:
        if grad_scale is not None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_mul_(gradients, grad_scale.reciprocal())
        optimizer.step()
        return
    # The attributes through which torch.amp.GradScaler hands the same decision to a fused optimizer.
    optimizer.grad_scale, optimizer.found_inf = grad_scale, refused  # type: ignore[attr-defined]
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    if decay_all:
        return [{"params": parameters, "weight_decay": weight_decay}] if parameters else []
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _prime_state(optimizer: torch.optim.Optimizer) -> None:
    # torch's SGD takes an uninitialized momentum buffer into use when its very first step is refused. A buffer of
    # zeros gives the same first step (m = mu * 0 + g), and a checkpoint then has the same tensors at every step.
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            state = optimizer.state[parameter]
            if isinstance(optimizer, torch.optim.AdamW):
                state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
            elif group["momentum"]:
                state["momentum_buffer"] = torch.zeros_like(parameter)
