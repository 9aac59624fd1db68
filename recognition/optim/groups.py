"""Optimizers whose step can be refused on the device, and the groups of parameters they see."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from recognition.config.schema import OptimConfig


def make_optimizer(
    parameters: Iterable[nn.Parameter], optim: OptimConfig, *, decay_all: bool, lr_factor: float = 1.0
) -> torch.optim.Optimizer:
    """Return SGD or AdamW over `parameters`, with every state tensor in place before the first step.

    The fused kernels are used on CPU and CUDA alike, because they take a refusal (`refuse`) as a tensor: no value
    travels to the host. `decay_all` applies weight decay to every parameter, as the published SGD recipes do;
    otherwise vectors (norms, biases, PReLU slopes) are left out. `set_lr` gives it the run's rate times `lr_factor`.
    """
    groups = _decay_groups([p for p in parameters if p.requires_grad], optim.weight_decay, decay_all)
    optimizer: torch.optim.Optimizer
    if optim.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, lr=optim.lr, betas=optim.betas, fused=True)
    else:
        optimizer = torch.optim.SGD(groups, lr=optim.lr, momentum=optim.momentum, fused=True)
    for group in optimizer.param_groups:
        group["lr_factor"] = lr_factor
    _prime_state(optimizer)
    return optimizer


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group the rate of this step, times the factor it was made with."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def step_unless(optimizer: torch.optim.Optimizer, refused: torch.Tensor) -> None:
    """Take the optimizer's step, or leave parameters and state bit-identical where `refused` is 1 (0-dim, float32)."""
    # The attributes through which torch.amp.GradScaler hands the same decision to a fused optimizer.
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.found_inf = refused  # type: ignore[attr-defined]
    optimizer.step()


def _decay_groups(parameters: list[nn.Parameter], weight_decay: float, decay_all: bool) -> list[dict[str, Any]]:
    if decay_all:
        return [{"params": parameters, "weight_decay": weight_decay}]
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
