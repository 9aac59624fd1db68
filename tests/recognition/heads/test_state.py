"""Formats of centers and momentum, their first values, and their way into another number of ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recognition.distributed.world import World
from recognition.draws.hashing import mix
from recognition.draws.rounding import stochastic_bf16_bits
from recognition.heads.choosing import choose
from recognition.heads.rows import Rows
from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers.heads import SGD, adamw_of, batch, bits, make_head, optimizer_of, snapshot, take_step

BATCH = 6


def rank_of(rank: int, size: int) -> World:
    return World(rank, size, rank, torch.device("cpu"))


def train(head: ShardedSoftmax, steps: int) -> list[float]:
    optimizer = optimizer_of(head, lr=0.5)
    embeddings, labels = batch(head, BATCH)
    return [
        take_step(head, optimizer, (embeddings.detach().clone().requires_grad_(), labels))[0] for _ in range(steps)
    ]  # fmt: skip


@pytest.mark.parametrize("size", [2, 3, 7])
def test_first_centers_do_not_depend_on_the_number_of_ranks(size: int) -> None:
    num_classes = 9001  # more than the rows drawn at once, so shards begin inside a draw
    whole = make_head(num_classes, sub_centers=2).state_rows()["centers"]
    parts = torch.cat(
        [make_head(num_classes, world=rank_of(r, size), sub_centers=2).state_rows()["centers"] for r in range(size)]
    )
    assert torch.equal(whole, parts)


def test_first_centers_are_normal_and_all_different() -> None:
    centers = make_head(9000).state_rows()["centers"]
    assert centers.mean().item() == pytest.approx(0, abs=1e-4)
    assert centers.std().item() == pytest.approx(0.01, rel=0.01)
    assert len(centers.unique(dim=0)) == 9000
    assert not torch.equal(centers, make_head(9000, seed=4).state_rows()["centers"])


@pytest.mark.parametrize("make_optimizer", [optimizer_of, adamw_of])
def test_rows_move_to_another_number_of_ranks(make_optimizer: Any) -> None:
    num_classes = 23
    changes: dict[str, Any] = {"centers_format": "bf16", "momentum_format": "int8", "sub_centers": 2}
    whole = make_head(num_classes, **changes)
    optimizer = make_optimizer(whole)
    for step in range(3):
        take_step(whole, optimizer, batch(whole, BATCH, step))
    heads = [make_head(num_classes, world=rank_of(rank, 4), seed=9, **changes) for rank in range(4)]
    for head in heads:
        make_optimizer(head)
    for name, rows in whole.state_rows().items():
        for head in heads:
            for start in range(0, num_classes, 5):  # in pieces that no shard is aligned with
                head.load_rows(name, start, rows[start * 2 : (start + 5) * 2])
        assert torch.equal(torch.cat([head.state_rows()[name] for head in heads]), rows)


def test_rounding_keeps_the_mean() -> None:
    values = torch.randn(64, 32, generator=torch.Generator().manual_seed(0))
    rows = torch.arange(64)
    total = torch.zeros(64, 32, dtype=torch.float64)
    repeats = 4000
    for step in range(repeats):
        bits = stochastic_bf16_bits(values.clone(), row_keys=mix(rows, 0, step), salt=step)
        total += bits.contiguous().view(torch.bfloat16).double()
    spacing = values.abs() * 2**-7
    # A rounding error is at most one spacing; the mean of 4,000 strays by 5 of its deviations at most.
    assert bool(((total / repeats - values).abs() < 5 * 0.5 * spacing / repeats**0.5 + 1e-9).all())


def test_rounding_leaves_what_bf16_can_hold() -> None:
    values = torch.randn(8, 8).bfloat16()
    bits = stochastic_bf16_bits(values.float(), row_keys=mix(torch.arange(8), 1), salt=1)
    assert torch.equal(bits.contiguous().view(torch.bfloat16), values)


def test_rounding_is_a_function_of_the_global_row() -> None:
    values = torch.randn(32, 8)
    whole = stochastic_bf16_bits(values.clone(), row_keys=mix(torch.arange(32), 5, 7), salt=2)
    part = stochastic_bf16_bits(values[10:20].clone(), row_keys=mix(torch.arange(10, 20), 5, 7), salt=2)
    other_step = stochastic_bf16_bits(values.clone(), row_keys=mix(torch.arange(32), 5, 8), salt=2)
    assert torch.equal(whole[10:20], part)
    assert not torch.equal(whole, other_step)


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"momentum_format": "bf16"}, 0.01),
        ({"momentum_format": "int8"}, 0.02),
        ({"centers_format": "bf16"}, 0.02),
        ({"centers_format": "bf16", "momentum_format": "int8"}, 0.03),
        ({"products": "bf16"}, 0.02),
    ],
    ids=str,
)
def test_small_formats_follow_float32(changes: dict[str, Any], tolerance: float) -> None:
    num_classes = 50
    exact = make_head(num_classes)
    small = make_head(num_classes, **changes)
    exact_losses, small_losses = train(exact, 6), train(small, 6)
    assert exact_losses[-1] < 0.8 * exact_losses[0]
    assert small_losses == pytest.approx(exact_losses, rel=tolerance)
    moved = exact.state_rows()["centers"] - make_head(num_classes).state_rows()["centers"]
    error = small.state_rows()["centers"].float() - exact.state_rows()["centers"]
    assert (error.norm() / moved.norm()).item() < tolerance


def test_without_momentum_the_step_is_plain_sgd() -> None:
    head, plain = make_head(30, momentum_format="none"), make_head(30)
    optimizers = optimizer_of(head), plain.optimizer(lr=0.1, weight_decay=SGD["weight_decay"])
    for step in range(4):
        rows, labels = batch(head, BATCH, step)
        take_step(head, optimizers[0], (rows, labels))
        take_step(plain, optimizers[1], (rows, labels))
    assert torch.equal(head.centers, plain.centers)
    assert set(head.state_rows()) == {"centers"}


def test_rows_outside_the_sample_keep_their_bits() -> None:
    num_classes = 400
    head = make_head(num_classes, sample_rate=0.1, centers_format="bf16", momentum_format="int8")
    optimizer = optimizer_of(head, lr=0.5)
    for step in range(3):
        before = snapshot(head)
        rows, labels = batch(head, BATCH, step)
        take_step(head, optimizer, (rows, labels))
        assert head.result is not None
        sampled = head.result.sampled
        assert sampled is not None
        assert len(sampled) == 40
        assert bool(torch.isin(labels, sampled).all())
        outside = torch.ones(num_classes, dtype=torch.bool)
        outside[sampled] = False
        for name, stored in head.state_rows().items():
            assert torch.equal(bits(stored[outside]), bits(before[name][outside]))
            assert not torch.equal(bits(stored[~outside]), bits(before[name][~outside]))


def test_samples_differ_by_step_and_cover_all_classes() -> None:
    head = make_head(200, sample_rate=0.2)
    optimizer = optimizer_of(head)
    seen = torch.zeros(200)
    samples = []
    for _ in range(100):
        rows, _ = batch(head, 2)
        take_step(head, optimizer, (rows, torch.tensor([0, 1])))
        assert head.result is not None
        sampled = head.result.sampled
        assert sampled is not None
        assert len(sampled.unique()) == 40
        seen[sampled] += 1
        samples.append(sampled)
    assert not torch.equal(samples[0], samples[1])
    # Binomial(100, 0.19): 5 deviations around the mean.
    assert 0 < seen[2:].min() < 20 < seen[2:].max() < 40


def test_samples_of_the_ranks_differ() -> None:
    heads = [make_head(400, world=rank_of(rank, 2), sample_rate=0.2) for rank in range(2)]
    samples = []
    for head in heads:
        x_ND = torch.nn.functional.normalize(torch.randn(2, 16))
        rows = Rows.of(head.margin, x_ND, torch.tensor([0, 399]), first_class=head.class_range.start, weights=None)
        chosen = choose(
            head._loop, rows, head.class_range, head.sampling, step=0, labels_on_host=None, on_host=True
        )  # fmt: skip
        samples.append(chosen[0].sample)
    assert not torch.equal(*samples)
