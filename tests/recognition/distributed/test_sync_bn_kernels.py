"""BatchNorm by CUDA's kernels over a global batch, with stand-ins that compute what torch says of each kernel."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recognition.distributed.sync_bn_kernels import normalize_on_cuda
from recognition.distributed.world import World
from tests.helpers.worlds import run_world

SHAPE = (12, 5, 4, 3)


def over(x: Tensor) -> list[int]:
    return [axis for axis in range(x.ndim) if axis != 1]


def spread(values: Tensor, x: Tensor) -> Tensor:
    return values.view([1, -1] + [1] * (x.ndim - 2))


def stats(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    var, mean = torch.var_mean(x, over(x), correction=0)
    return mean, (var + eps).rsqrt()


def gathered(
    x: Tensor, means: Tensor, stds: Tensor, run_mean: Tensor, run_var: Tensor, share: float, eps: float, counts: Tensor
) -> tuple[Tensor, Tensor]:
    counts = counts.unsqueeze(1)
    mean = (means * counts).sum(0) / counts.sum()
    var = ((stds.pow(-2) - eps + (means - mean).square()) * counts).sum(0) / counts.sum()
    run_mean.lerp_(mean, share)
    run_var.lerp_(var * counts.sum() / (counts.sum() - 1), share)
    return mean, (var + eps).rsqrt()


def normalized(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor, eps: float) -> Tensor:
    return (x - spread(mean, x)) * spread(std * weight, x) + spread(bias, x)


def reduced(gradient: Tensor, x: Tensor, mean: Tensor, std: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    sum_dy, sum_dy_xmu = gradient.sum(over(x)), (gradient * (x - spread(mean, x))).sum(over(x))
    return sum_dy, sum_dy_xmu, sum_dy_xmu * std, sum_dy


def gradient_of_x(
    gradient: Tensor,
    x: Tensor,
    mean: Tensor,
    std: Tensor,
    weight: Tensor,
    sums: Tensor,
    sums_xmu: Tensor,
    counts: Tensor,
) -> Tensor:
    assert counts.dtype == torch.int32
    centered = (x - spread(mean, x)) * spread(std.square() * sums_xmu / counts.sum(), x)
    return (gradient - spread(sums / counts.sum(), x) - centered) * spread(std * weight, x)


def run(norm: nn.Module, x: Tensor, gradient: Tensor, world: World | None) -> dict[str, Tensor]:
    x = x.clone().requires_grad_()
    for _ in range(2):  # running statistics move twice
        output = norm(x) if world is None else normalize_on_cuda(norm, x, world)  # type: ignore[arg-type]
    output.backward(gradient)
    assert x.grad is not None
    found = {"output": output.detach(), "x": x.grad, "mean": norm.running_mean, "var": norm.running_var}
    return found | {name: p.grad for name, p in norm.named_parameters()}  # type: ignore[misc, return-value]


def make(world: World | None) -> dict[str, Tensor]:
    torch.manual_seed(4)
    norm = nn.BatchNorm2d(SHAPE[1], dtype=torch.float64)
    nn.init.normal_(norm.weight)
    x, gradient = torch.randn(SHAPE, dtype=torch.float64) * 2 + 1, torch.randn(SHAPE, dtype=torch.float64)
    own = slice(0, 12) if world is None else slice(0, 9) if world.rank == 0 else slice(9, 12)
    return run(norm, x[own], gradient[own], world)


def share_of(world: World) -> dict[str, Tensor]:
    stand_ins = {
        "batch_norm_stats": stats,
        "batch_norm_gather_stats_with_counts": gathered,
        "batch_norm_elemt": normalized,
        "batch_norm_backward_reduce": reduced,
        "batch_norm_backward_elemt": gradient_of_x,
    }
    for name, function in stand_ins.items():
        setattr(torch, name, function)  # in a process of this world alone
    return make(world)


@pytest.mark.slow
def test_the_kernels_together_are_batch_norm_of_the_global_batch() -> None:
    ranks, expected = run_world(2, share_of), make(None)
    for name in ("output", "x"):
        torch.testing.assert_close(torch.cat([rank[name] for rank in ranks]), expected[name])
    for name in ("weight", "bias"):  # each rank's own share of the sum
        torch.testing.assert_close(ranks[0][name] + ranks[1][name], expected[name])
    for name in ("mean", "var"):
        for rank in ranks:
            torch.testing.assert_close(rank[name], expected[name])
