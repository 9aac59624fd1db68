"""BatchNorm over the global batch, equal buffers, and gradients averaged in an order that never changes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import nn

from recognition.backbones import build_backbone
from recognition.distributed.replicate import (
    SyncBatchNorm,
    average_buffers_,
    averaged_buffers,
    convert_sync_bn,
    replicate,
)
from recognition.distributed.world import World
from tests.helpers.worlds import run_world

# How the global batch of 12 is cut into ranks.
SHARES: dict[int, list[tuple[int, ...]]] = {1: [(12,)], 2: [(6, 6), (9, 3)], 3: [(4, 4, 4), (1, 10, 1)]}
SHAPES = {"maps": (12, 5, 4, 3), "rows": (12, 5)}
INPUTS = [(torch.float64, 0.0), (torch.float32, 0.0), (torch.float32, 1000.0), (torch.bfloat16, 0.0)]


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / b.abs().max()).item()


def make_norm(kind: str) -> nn.Module:
    norm = nn.BatchNorm2d(5) if kind == "maps" else nn.BatchNorm1d(5)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([0.5, 1.0, -2.0, 0.1, 3.0]))
        norm.bias.copy_(torch.arange(5.0))
    return norm


def make_batch(kind: str, dtype: torch.dtype, offset: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SHAPES[kind], generator=generator, dtype=torch.float64)
    gradient = torch.randn(SHAPES[kind], generator=generator, dtype=torch.float64)
    return (x + offset).to(dtype), gradient.to(dtype)


def run_norm(norm: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> dict[str, torch.Tensor]:
    x = x.clone().requires_grad_()
    for _ in range(2):  # running statistics move twice
        output = norm(x)
    output.backward(gradient)
    found = {"output": output.detach(), "x": x.grad, "mean": norm.running_mean, "var": norm.running_var}
    found |= {name: p.grad for name, p in norm.named_parameters() if p.requires_grad}
    return found


def one_share(world: World, shares: Sequence[int], kind: str, dtype: torch.dtype, offset: float) -> dict[str, Any]:
    norm = convert_sync_bn(make_norm(kind).to(dtype if dtype == torch.float64 else torch.float32))
    start = sum(shares[: world.rank])
    x, gradient = (part[start : start + shares[world.rank]] for part in make_batch(kind, dtype, offset))
    if kind == "maps":
        x = x.contiguous(memory_format=torch.channels_last)
    return run_norm(norm, x, gradient) | {"batches": int(norm.num_batches_tracked)}


def everything(world: World) -> dict[str, Any]:
    """One world of each size runs every case: starting the processes costs more than all of them."""
    found: dict[str, Any] = {
        f"{shares} {kind} {dtype} {offset:g}": one_share(world, shares, kind, dtype, offset)
        for shares in SHARES[world.size]
        for kind in SHAPES
        for dtype, offset in INPUTS
    }
    found["buffers"] = buffers_after(world)
    found["whole"] = train_in_parts(world, (3,))
    found["parted"] = train_in_parts(world, (1, 2))
    found["losses"] = losses_of_five_steps(world, 12)
    if world.size > 1:
        found["compressed"] = {kind: gradients_of_one_step(world, kind) for kind in ("none", "bf16", "fp16")}
    return found


@pytest.fixture(scope="module")
def worlds() -> dict[int, list[dict[str, Any]]]:
    """World size -> the results of its ranks."""
    return {size: run_world(size, everything) for size in SHARES}


@pytest.mark.slow
@pytest.mark.parametrize("shares", [shares for cuts in SHARES.values() for shares in cuts], ids=str)
@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize(
    ("dtype", "offset", "tolerance"),
    # float32 holds 1000 + x to 6e-5, and its mean no better; nn.BatchNorm loses as much.
    [(torch.float64, 0, 1e-12), (torch.float32, 0, 1e-6), (torch.float32, 1000, 1e-3), (torch.bfloat16, 0, 2e-2)],
    ids=str,
)
def test_sync_bn_is_batch_norm_of_the_global_batch(
    worlds: dict[int, list[dict[str, Any]]],
    shares: tuple[int, ...],
    kind: str,
    dtype: torch.dtype,
    offset: float,
    tolerance: float,
) -> None:
    results = [rank[f"{shares} {kind} {dtype} {offset:g}"] for rank in worlds[len(shares)]]
    x, gradient = make_batch(kind, dtype, offset)
    expected = run_norm(make_norm(kind).double(), x.double(), gradient.double())
    for name in ("output", "x"):
        found = torch.cat([result[name] for result in results])
        assert found.dtype == dtype
        assert difference(found.double(), expected[name]) < tolerance, name
    for name in ("weight", "bias"):  # each rank's own share of the sum
        assert difference(sum(result[name].double() for result in results), expected[name]) < tolerance, name
    for result in results:
        assert result["batches"] == 2
        assert difference(result["mean"].double(), expected["mean"]) < max(tolerance / 10, 1e-6)
        assert difference(result["var"].double(), expected["var"]) < max(tolerance / 10, 1e-6)
        assert torch.equal(result["mean"], results[0]["mean"])


@pytest.mark.slow
def test_a_large_mean_does_not_wipe_out_the_variance(worlds: dict[int, list[dict[str, Any]]]) -> None:
    for rank in worlds[2]:
        near, far = rank["(9, 3) maps torch.float32 0"], rank["(9, 3) maps torch.float32 1000"]
        assert difference(far["var"], near["var"]) < 1e-4  # E[x^2] - E[x]^2 would leave one digit


def test_conversion_keeps_keys_objects_and_frozen_gain() -> None:
    backbone = build_backbone("tiny", embedding_size=8)
    before = dict(backbone.state_dict(keep_vars=True))
    converted = convert_sync_bn(backbone)
    after = dict(converted.state_dict(keep_vars=True))
    assert list(after) == list(before)
    assert all(after[key] is before[key] for key in before)
    assert not converted.features.weight.requires_grad
    norms = [part for part in converted.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 19
    assert all(isinstance(norm, SyncBatchNorm) for norm in norms)
    assert convert_sync_bn(converted) is converted


def test_conversion_keeps_settings_and_mode() -> None:
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=None, affine=False).eval()
    layer = convert_sync_bn(norm)
    assert isinstance(layer, SyncBatchNorm)
    assert (layer.eps, layer.momentum, layer.affine, layer.training) == (1e-3, None, False, False)
    assert layer.weight is None


def test_one_process_and_evaluation_are_plain_batch_norm() -> None:
    x, gradient = make_batch("maps", torch.float32)
    ours, theirs = convert_sync_bn(make_norm("maps")), make_norm("maps")
    for name, expected in run_norm(theirs, x, gradient).items():
        assert torch.equal(run_norm(convert_sync_bn(make_norm("maps")), x, gradient)[name], expected)
    assert torch.equal(ours.eval()(x), make_norm("maps").eval()(x))


def test_wrong_number_of_channels_is_named() -> None:
    with pytest.raises(ValueError, match=r"BatchNorm got \[2, 3, 4, 4\]; expected \[B, 5, ...\]"):
        convert_sync_bn(make_norm("maps"))(torch.zeros(2, 3, 4, 4))


def buffers_after(world: World) -> tuple[torch.Tensor, torch.Tensor, bool]:
    norm = nn.BatchNorm1d(2)
    own = torch.tensor([1.0, 0.1]) * (world.rank + 1)
    norm.running_mean.copy_(own)
    norm.running_var.fill_(0.1)  # equal on all ranks: not a bit may change, though 3 * 0.1 / 3 differs in float32
    with averaged_buffers(norm, world):
        inside = norm.running_mean.clone()
    assert torch.equal(norm.running_mean, own), "looking changed it"
    average_buffers_(norm, world)
    assert torch.equal(norm.running_mean, inside)
    return norm.running_mean, norm.running_var, isinstance(replicate(norm, world), nn.BatchNorm1d)


@pytest.mark.slow
@pytest.mark.parametrize("size", SHARES)
def test_buffers_become_their_mean_and_equal_ones_stay(worlds: dict[int, list[dict[str, Any]]], size: int) -> None:
    for mean, var, is_plain in (rank["buffers"] for rank in worlds[size]):
        torch.testing.assert_close(mean, torch.tensor([1.0, 0.1]) * (size + 1) / 2)
        assert torch.equal(var, torch.full((2,), 0.1))
        assert is_plain == (size == 1)


def train_in_parts(world: World, parts: Sequence[int]) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Train tiny for sum(parts) steps, wrapped anew for every part as a resumed run would be."""
    torch.manual_seed(world.rank)  # the ranks start apart; replicate makes them one
    module = convert_sync_bn(build_backbone("tiny", embedding_size=32))
    optimizer = torch.optim.SGD(module.parameters(), lr=0.01, momentum=0.9)
    step = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for part in parts:
            replica = replicate(module, world)
            for _ in range(part):
                images = torch.randn(2, 3, 112, 112, generator=torch.Generator().manual_seed(10 * step + world.rank))
                optimizer.zero_grad(set_to_none=True)
                replica(images).square().mean().backward()
                optimizer.step()
                step += 1
    return copy.deepcopy(module.state_dict()), [str(warning.message) for warning in caught]


@pytest.mark.slow
def test_gradients_are_summed_in_one_order_from_the_first_step_on(worlds: dict[int, list[dict[str, Any]]]) -> None:
    expected, warned = worlds[3][0]["whole"]
    for rank in worlds[3]:
        for run in ("whole", "parted"):
            assert all(torch.equal(tensor, expected[key]) for key, tensor in rank[run][0].items()), run
    assert not warned


def gradients_of_one_step(world: World, compression: Any) -> tuple[torch.Tensor, float]:
    """Return the gradient of all parameters, and the largest element of this rank's own share of it."""
    torch.manual_seed(0)
    module = build_backbone("tiny", embedding_size=16)
    replica = replicate(module, world, compression=compression)
    images = torch.randn(4, 3, 112, 112, generator=torch.Generator().manual_seed(world.rank))
    replica(images).square().sum().backward()
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with_others = torch.cat([parameter.grad.flatten() for parameter in trained if parameter.grad is not None])
    own = torch.autograd.grad(module(images).square().sum(), trained)
    return with_others, max(float(gradient.abs().max()) for gradient in own)


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(("kind", "dtype", "digits"), [("bf16", torch.bfloat16, 8), ("fp16", torch.float16, 11)])
def test_a_gradient_that_travels_in_16_bits_is_that_of_32_within_rounding(
    worlds: dict[int, list[dict[str, Any]]], size: int, kind: str, dtype: torch.dtype, digits: int
) -> None:
    ranks = [rank["compressed"] for rank in worlds[size]]
    plain, _ = ranks[0]["none"]
    largest = max(rank[kind][1] for rank in ranks)
    found, _ = ranks[0][kind]
    # The cast and each sum round once, by half a unit in the last of so many digits.
    assert float((found - plain).abs().max()) <= size * 2.0**-digits * largest
    assert torch.equal(found, found.to(dtype).float()), "it has not traveled in the type that was asked for"
    assert not torch.equal(found, plain)
    assert all(torch.equal(rank[kind][0], found) for rank in ranks)


def losses_of_five_steps(world: World, global_batch: int) -> list[float]:
    torch.manual_seed(0)
    module = convert_sync_bn(build_backbone("tiny", embedding_size=16))
    replica = replicate(module, world)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9)
    each = global_batch // world.size
    losses = []
    for step in range(5):
        images = torch.randn(global_batch, 3, 112, 112, generator=torch.Generator().manual_seed(step))
        targets = torch.randn(global_batch, 16, generator=torch.Generator().manual_seed(100 + step))
        own = slice(world.rank * each, (world.rank + 1) * each)
        optimizer.zero_grad(set_to_none=True)
        loss = (replica(images[own]) - targets[own]).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_one_global_batch_gives_the_same_losses_on_any_number_of_ranks(
    worlds: dict[int, list[dict[str, Any]]],
) -> None:
    per_size = [torch.tensor([rank["losses"] for rank in worlds[size]]).double().mean(0) for size in SHARES]
    for losses in per_size[1:]:
        assert difference(losses, per_size[0]) < 1e-5
