"""What runs on CUDA, run on a CPU: nothing decided on the host or changed before it is known; the fused kernels."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
import torch

from recognition.config.schema import HeadConfig
from recognition.distributed.world import World
from recognition.heads.sharded_softmax import ShardedSoftmax

NUM_CLASSES, DIM, BATCH = 75, 16, 9


def make_head(*, on_host: bool, kernels: Any = None, **changes: Any) -> ShardedSoftmax:
    head = ShardedSoftmax(
        NUM_CLASSES,
        DIM,
        world=World(0, 1, 0, torch.device("cpu")),
        config=HeadConfig(**changes),
        seed=3,
        momentum=0.9,
        weight_decay=5e-4,
    )
    head._on_host = on_host
    head._state._changes_in_place = on_host
    head._loop.kernels = kernels
    return head


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    rows = torch.randn(BATCH, DIM, generator=generator).requires_grad_()
    return rows, torch.randint(0, NUM_CLASSES, (BATCH,), generator=generator)


def train(head: ShardedSoftmax, steps: int = 3, factor: float = 1.0) -> tuple[list[float], torch.Tensor]:
    losses = []
    for step in range(steps):
        rows, labels = batch(step)
        head.begin_step(step=step, lr=0.5)
        loss = head(rows, labels)
        (loss * factor).backward()
        head.finish_step(head.refused)
        losses.append(loss.item())
    assert rows.grad is not None
    return losses, rows.grad


CHANGES: list[dict[str, Any]] = [
    {"block_size": 16},
    {"block_size": 16, "update": "deferred"},
    {"block_size": 16, "scale": 100.0},
    {"sub_centers": 2},
    {"interclass_filtering_threshold": 0.2},
    {"centers_format": "bf16", "momentum_format": "int8", "block_size": 16},
    {"sample_rate": 0.5},
]


def assert_same_training(one: ShardedSoftmax, other: ShardedSoftmax, tolerance: float) -> None:
    losses, gradient = train(one)
    other_losses, other_gradient = train(other)
    assert losses == pytest.approx(other_losses, rel=tolerance)
    assert torch.allclose(gradient, other_gradient, rtol=0, atol=tolerance * float(gradient.abs().max()))
    for name, rows in one.state_rows().items():
        largest = float(rows.abs().max())
        assert torch.allclose(rows.float(), other.state_rows()[name].float(), rtol=0, atol=tolerance * largest), name


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_device_path_trains_as_the_host_path(changes: dict[str, Any]) -> None:
    assert_same_training(make_head(on_host=True, **changes), make_head(on_host=False, **changes), 1e-6)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_step_refused_on_the_device_leaves_every_bit(changes: dict[str, Any]) -> None:
    head = make_head(on_host=False, **changes)
    train(head)
    before = {name: rows.clone() for name, rows in head.state_rows().items()}
    own = int(batch(0)[1][0])
    head.centers[own, 1] = before["centers"][own, 1] = torch.nan
    _, gradient = train(head, steps=1)
    assert head.refused.item() == 1
    assert not gradient.any()
    for name, rows in head.state_rows().items():
        assert torch.equal(rows.view(torch.uint8), before[name].view(torch.uint8)), name


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # read when triton is imported
    pytest.importorskip("triton", reason="Triton is not installed; its interpreter would run the kernels on a CPU")
    return importlib.import_module("recognition.heads.fused_triton")


@pytest.mark.parametrize(
    "changes",
    [{"block_size": 70}, {"interclass_filtering_threshold": 0.2}, {"sample_rate": 0.5}, {"momentum_format": "int8"}],
    ids=str,
)
def test_fused_kernels_train_as_the_plain_path(changes: dict[str, Any], kernels: Any) -> None:
    plain, fused = make_head(on_host=True, **changes), make_head(on_host=False, kernels=kernels, **changes)
    assert_same_training(plain, fused, 1e-5)


def test_a_refused_kernel_update_leaves_every_bit(kernels: Any) -> None:
    head = make_head(on_host=False, kernels=kernels)
    train(head)
    before = {name: rows.clone() for name, rows in head.state_rows().items()}
    train(head, steps=1, factor=torch.inf)
    assert head.refused.item() == 1
    for name, rows in head.state_rows().items():
        assert torch.equal(rows, before[name]), name
