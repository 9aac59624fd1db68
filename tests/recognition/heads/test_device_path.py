"""What runs on CUDA, run on a CPU: nothing decided on the host or changed before it is known; the fused kernels."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers.heads import adamw_of, batch, bits, make_head, optimizer_of, snapshot, take_step

NUM_CLASSES, BATCH = 75, 9


def train(
    head: ShardedSoftmax, steps: int = 3, factor: float = 1.0, kind: str = "sgd"
) -> tuple[list[float], torch.Tensor, bool]:
    optimizer = adamw_of(head) if kind == "adamw" else optimizer_of(head, lr=0.5)
    losses = []
    for step in range(steps):
        loss, gradient, refused = take_step(head, optimizer, batch(head, BATCH, step), factor=factor)
        losses.append(loss)
    return losses, gradient, refused


CHANGES: list[dict[str, Any]] = [
    {"block_size": 16},
    {"block_size": 16, "scale": 100.0},
    {"sub_centers": 2},
    {"interclass_filtering_threshold": 0.2},
    {"centers_format": "bf16", "momentum_format": "int8", "block_size": 16},
    {"sample_rate": 0.5},
    {"kind": "adamw", "block_size": 16},
    {"kind": "adamw", "sample_rate": 0.5, "sub_centers": 2},
    {"kind": "adamw", "centers_format": "bf16", "momentum_format": "int8", "block_size": 16},
    {"sample_rate": 0.3, "unsampled": "coast"},
    {"sample_rate": 0.3, "sampling_correction": "logq"},
]


def _kind_and_rest(changes: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    return changes.get("kind", "sgd"), {name: value for name, value in changes.items() if name != "kind"}


def assert_same_training(one: ShardedSoftmax, other: ShardedSoftmax, tolerance: float, kind: str = "sgd") -> None:
    losses, gradient, _ = train(one, kind=kind)
    other_losses, other_gradient, _ = train(other, kind=kind)
    assert losses == pytest.approx(other_losses, rel=tolerance)
    assert torch.allclose(gradient, other_gradient, rtol=0, atol=tolerance * float(gradient.abs().max()))
    assert_same_state(one, other, tolerance)


def assert_same_state(one: ShardedSoftmax, other: ShardedSoftmax, tolerance: float) -> None:
    for name, rows in one.state_rows().items():
        # What is stored in int8 may have been rounded the other way.
        is_level = rows.dtype in (torch.int8, torch.uint8)
        allowed = 1.0 if is_level else tolerance * float(rows.float().abs().max())
        assert torch.allclose(rows.float(), other.state_rows()[name].float(), rtol=0, atol=allowed), name


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_the_device_path_trains_as_the_host_path(changes: dict[str, Any]) -> None:
    kind, changes = _kind_and_rest(changes)
    host, device = (make_head(NUM_CLASSES, mode=mode, **changes) for mode in ("host", "device"))
    # AdamW divides a gradient by its own size: where that is a rounding error, so is the direction of a step of 0.25.
    assert_same_training(host, device, 1e-3 if kind == "adamw" else 1e-6, kind)


@pytest.mark.parametrize("changes", CHANGES, ids=str)
def test_a_step_refused_on_the_device_leaves_every_bit(changes: dict[str, Any]) -> None:
    kind, changes = _kind_and_rest(changes)
    head = make_head(NUM_CLASSES, mode="device", **changes)
    train(head, kind=kind)
    own = int(batch(head, BATCH, 0)[1][0])
    head.state_rows()["centers"][own * head.sub_centers, 1] = torch.nan
    before = snapshot(head)
    _, gradient, refused = train(head, steps=1, kind=kind)
    assert refused
    assert not gradient.any()
    for name, rows in head.state_rows().items():
        assert torch.equal(bits(rows), bits(before[name])), name


@pytest.fixture
def kernels() -> None:
    pytest.importorskip("triton", reason="Triton is not installed; its interpreter would run the kernels on a CPU")


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    "changes",
    [
        {"block_size": 70},
        {"interclass_filtering_threshold": 0.2},
        {"sample_rate": 0.5},
        {"momentum_format": "int8"},
        {"kind": "adamw"},
    ],
    ids=str,
)
def test_fused_kernels_train_as_the_plain_path(changes: dict[str, Any]) -> None:
    kind, changes = _kind_and_rest(changes)
    plain, fused = (make_head(NUM_CLASSES, mode=mode, **changes) for mode in ("host", "kernels"))
    assert fused._loop.kernels is not None
    assert_same_training(plain, fused, 1e-3 if kind == "adamw" else 1e-5, kind)


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
def test_kernels_sum_the_rows_of_several_backwards() -> None:
    plain, fused = (make_head(NUM_CLASSES, mode=mode, sample_rate=0.5) for mode in ("host", "kernels"))
    for head in (plain, fused):
        optimizer = optimizer_of(head)
        for number in range(2):
            rows, labels = batch(head, BATCH, number)
            (head(rows, labels) / 2).backward()
        optimizer.step()
    assert_same_state(plain, fused, 1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("kernels")
def test_a_refused_kernel_update_leaves_every_bit() -> None:
    head = make_head(NUM_CLASSES, mode="kernels")
    train(head)
    before = snapshot(head)
    _, _, refused = train(head, steps=1, factor=torch.inf)
    assert refused
    for name, rows in head.state_rows().items():
        assert torch.equal(rows, before[name]), name


@pytest.mark.parametrize("changes", [{"scale": 100.0}, {"sub_centers": 2}, {"dtype": torch.float64}], ids=str)
def test_kernels_are_left_out_where_they_do_not_apply(changes: dict[str, Any]) -> None:
    assert make_head(NUM_CLASSES, mode="kernels", **changes)._loop.kernels is None
