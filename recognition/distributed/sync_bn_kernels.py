"""BatchNorm over the global batch by the kernels that torch has for it on CUDA, without a wait for the device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

from recognition.distributed.collectives import all_reduce_sum_, gather_stack
from recognition.distributed.world import World


def normalize_on_cuda(norm: _BatchNorm, x: Tensor, world: World) -> Tensor:
    """Return `x` [B, C, ...] normalized by the statistics of all ranks; moves the running ones of `norm`.

    `norm` has a weight, a bias and a momentum. No rank may be without rows.
    """
    normalized: Tensor = _Normalize.apply(x, norm.weight, norm.bias, norm, world)  # type: ignore[no-untyped-call]
    return normalized


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, norm: _BatchNorm, world: World) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last if x.ndim == 4 else torch.contiguous_format)
        mean, inverse_std = torch.batch_norm_stats(x, norm.eps)
        count = torch.full((1,), x.numel() // x.shape[1], dtype=mean.dtype, device=x.device)
        everyones = gather_stack(torch.cat([mean, inverse_std, count]), world)  # [W, 2 C + 1]
        means, inverse_stds, counts = everyones.split([len(mean), len(mean), 1], dim=1)
        counts = counts.flatten()
        mean, inverse_std = torch.batch_norm_gather_stats_with_counts(
            x,
            means.contiguous(),
            inverse_stds.contiguous(),
            norm.running_mean,
            norm.running_var,
            norm.momentum,  # type: ignore[arg-type]  # the caller has seen to it
            norm.eps,
            counts,
        )
        ctx.save_for_backward(x, weight, mean, inverse_std, counts.to(torch.int32))
        ctx.world = world
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse_std, norm.eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse_std, counts = ctx.saved_tensors
        layout = torch.channels_last if x.ndim == 4 else torch.contiguous_format
        gradient = gradient.contiguous(memory_format=layout)
        sum_dy, sum_dy_xmu, grad_weight, grad_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse_std, weight, True, True, True
        )
        # DDP averages the parameters' gradients; only what flows on to x needs the sums of all ranks.
        sums = all_reduce_sum_(torch.stack([sum_dy, sum_dy_xmu]), ctx.world)
        grad_x = torch.batch_norm_backward_elemt(gradient, x, mean, inverse_std, weight, sums[0], sums[1], counts)
        return grad_x, grad_weight, grad_bias, None, None
