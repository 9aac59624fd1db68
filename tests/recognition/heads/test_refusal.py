"""A step counts on every rank or on none: NaN in any place, overflow found later, and what happens once only."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.config.schema import HeadConfig
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.heads.sharded_softmax import ShardedSoftmax, normalize
from tests.helpers.worlds import run_world, world_sizes

CPU = World(0, 1, 0, torch.device("cpu"))
NUM_CLASSES, DIM, BATCH = 37, 16, 4


def make_head(world: World = CPU, num_classes: int = NUM_CLASSES, **changes: Any) -> ShardedSoftmax:
    return ShardedSoftmax(
        num_classes, DIM, world=world, config=HeadConfig(**changes), seed=3, momentum=0.9, weight_decay=5e-4
    )


def batch(world: World = CPU, step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(100 * step + world.rank)
    labels = torch.randint(0, NUM_CLASSES, (BATCH,), generator=generator)
    return torch.randn(BATCH, DIM, generator=generator).requires_grad_(), labels


def take_step(head: ShardedSoftmax, world: World = CPU, *, step: int = 0, factor: float = 1.0, **begin: Any) -> Tensor:
    embeddings, labels = batch(world, step)
    head.begin_step(step=step, lr=0.1, **begin)
    (head(embeddings, labels) * factor).backward()
    head.finish_step(head.refused)
    assert embeddings.grad is not None
    return embeddings.grad


def snapshot(head: ShardedSoftmax) -> dict[str, Tensor]:
    return {name: rows.clone() for name, rows in head.state_rows().items()}


def same_bits(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return all(torch.equal(_bits(left[name]), _bits(right[name])) for name in left)


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().contiguous().view(torch.uint8)


FORMATS: list[dict[str, Any]] = [
    {},
    {"update": "deferred"},
    {"centers_format": "bf16", "momentum_format": "int8"},
    {"sample_rate": 0.5},
    {"update": "autograd"},
]


def _plant(world: World, place: str, culprit: int, changes: dict[str, Any]) -> tuple[float, bool, bool]:
    head = make_head(world, **changes)
    for step in range(2):
        take_step(head, world, step=step)
    embeddings, labels = batch(world, 2)
    factor = 1.0
    if world.rank == culprit and place == "embedding":
        embeddings = embeddings.detach().clone()
        embeddings[1, 3] = torch.nan
        embeddings.requires_grad_()
    if world.rank == culprit and place == "center":
        with torch.no_grad():
            head.centers[0 if head.sampled is None else int(labels[0]) % len(head.centers), 2] = torch.nan
    if world.rank == culprit and place == "factor":
        factor = torch.inf
    if place == "center" and changes.get("sample_rate"):
        labels = torch.full_like(labels, head.class_range.start) if world.rank == culprit else labels
        with torch.no_grad():
            if world.rank == culprit:
                head.centers[0, 2] = torch.nan
    before = snapshot(head)
    head.begin_step(step=2, lr=0.1)
    loss = head(embeddings, labels)
    (loss * factor).backward()
    head.finish_step(head.refused)
    gradient = head.centers.grad
    unmoved = same_bits(before, head.state_rows()) and (
        gradient is None or changes.get("update") != "autograd" or place == "none" or head.refused.item() == 1
    )
    return head.refused.item(), unmoved, bool(loss.isfinite())


def _plant_everywhere(world: World) -> dict[str, tuple[float, bool, bool]]:
    return {
        f"{place}-{culprit}-{number}": _plant(world, place, culprit, changes)
        for place in ("embedding", "center", "factor", "none")
        for culprit in range(world.size)
        for number, changes in enumerate(FORMATS)
    }


@pytest.mark.parametrize("size", world_sizes(1, 3))
def test_a_nan_anywhere_moves_nothing_anywhere(size: int) -> None:
    ranks = run_world(size, _plant_everywhere, timeout_s=300)
    for name in ranks[0]:
        for rank in ranks:
            refused, unmoved, _ = rank[name]
            wanted = 0.0 if name.startswith("none") else 1.0
            assert refused == wanted, name
            if wanted:
                assert unmoved, f"{name}: a refused step moved something"
            elif FORMATS[int(name[-1])].get("update") != "autograd":
                assert not unmoved, f"{name}: an accepted step moved nothing"


def test_loss_scales_give_bit_equal_centers() -> None:
    states, gradients = [], []
    for scale in (1.0, 1024.0, 65536.0):
        head = make_head()
        for step in range(3):
            gradient = take_step(head, step=step, factor=scale, loss_scale=torch.tensor(scale))
        states.append(snapshot(head))
        gradients.append(gradient / scale)
    assert same_bits(states[0], states[1])
    assert same_bits(states[0], states[2])
    assert torch.equal(gradients[0], gradients[2])


def test_a_deferred_step_can_still_be_refused() -> None:
    head = make_head(update="deferred")
    before = snapshot(head)
    embeddings, labels = batch()
    head.begin_step(step=0, lr=0.1)
    head(embeddings, labels).backward()
    assert same_bits(before, head.state_rows())
    head.finish_step(torch.tensor(1.0))
    assert same_bits(before, head.state_rows())
    take_step(head)
    assert not same_bits(before, head.state_rows())


def test_deferred_and_fused_take_the_same_steps() -> None:
    heads = [make_head(), make_head(update="deferred")]
    for step in range(3):
        for head in heads:
            take_step(head, step=step)
    assert same_bits(snapshot(heads[0]), snapshot(heads[1]))


def test_a_second_backward_raises() -> None:
    head = make_head()
    embeddings, labels = batch()
    head.begin_step(step=0, lr=0.1)
    loss = head(embeddings, labels)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward a second time: the centers have moved"):
        loss.backward()


def test_two_steps_cannot_overlap() -> None:
    head = make_head()
    losses = []
    for step in range(2):
        embeddings, labels = batch(step=step)
        head.begin_step(step=step, lr=0.1)
        losses.append(head(embeddings, labels))
    losses[0].backward()
    with pytest.raises(RuntimeError, match="backward after the centers have moved"):
        losses[1].backward()


def test_nothing_moves_without_gradients() -> None:
    head = make_head()
    before = snapshot(head)
    embeddings, labels = batch()
    with torch.no_grad():
        quiet = head(embeddings, labels)
    head.eval()
    assert head(embeddings, labels).item() == quiet.item()
    assert same_bits(before, head.state_rows())


def test_a_frozen_backbone_lets_the_centers_learn() -> None:
    head = make_head()
    before = snapshot(head)
    embeddings, labels = batch()
    head.begin_step(step=0, lr=0.1)
    head(embeddings.detach(), labels).backward()
    assert not same_bits(before, head.state_rows())


@pytest.mark.parametrize("cosine", [1.0, -1.0])
@pytest.mark.parametrize("num_classes", [2, 1_000_000])
@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (1.35, 0.0, 0.0), (1.0, 0.0, 0.4)])
def test_finite_at_the_ends_of_the_cosine(cosine: float, num_classes: int, margins: tuple[float, float, float]) -> None:
    head = ShardedSoftmax(
        num_classes,
        4,
        world=CPU,
        config=HeadConfig(margins=margins, margin_gradient="exact", block_size=65536),
        seed=0,
        momentum=0.9,
        weight_decay=0.0,
    )
    labels = torch.tensor([0, 1])
    embeddings = (head.state_rows()["centers"][labels] * cosine).clone().requires_grad_()
    head.begin_step(step=0, lr=0.1)
    loss = head(embeddings, labels)
    loss.backward()
    assert head.refused.item() == 0
    assert bool(loss.isfinite())
    assert embeddings.grad is not None
    assert bool(embeddings.grad.isfinite().all())
    assert bool(head.state_rows()["centers"].isfinite().all())


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e30])
def test_embeddings_of_any_length_are_safe(length: float) -> None:
    embeddings, labels = batch()
    embeddings = (embeddings.detach() * length).requires_grad_()
    head = make_head()
    head.begin_step(step=0, lr=0.1)
    loss = head(embeddings, labels)
    loss.backward()
    assert head.refused.item() == 0
    assert embeddings.grad is not None
    assert bool(loss.isfinite() & embeddings.grad.isfinite().all())


def test_normalize_has_the_gradient_of_the_plain_formula() -> None:
    rows = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.allclose(normalize(rows), torch.nn.functional.normalize(rows), atol=1e-15)
    assert torch.autograd.gradcheck(normalize, rows)


@pytest.mark.parametrize("margins", [(1.0, 0.5, 0.0), (0.9, 0.4, 0.15), (1.0, 0.0, 0.4)])
def test_gradcheck_with_exact_gradients(margins: tuple[float, float, float]) -> None:
    config = HeadConfig(margins=margins, margin_gradient="exact", update="autograd", scale=8.0, block_size=3)
    head = ShardedSoftmax(7, 5, world=CPU, config=config, seed=0, momentum=0.9, weight_decay=0.0, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    head.set_centers(0, torch.randn(7, 5, generator=generator, dtype=torch.float64))
    embeddings = torch.randn(4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 3, 3, 6])
    assert torch.autograd.gradcheck(lambda rows, _: head(rows, labels), (embeddings, head.centers))


def test_autograd_refuses_what_an_optimizer_cannot_keep() -> None:
    with pytest.raises(ConfigError, match=r"head.update: found 'autograd' with sample_rate below 1 or bf16 centers"):
        make_head(update="autograd", sample_rate=0.1)


def test_a_sample_smaller_than_the_batch_warns(caplog: pytest.LogCaptureFixture) -> None:
    head = make_head(sample_rate=0.03)
    with caplog.at_level(logging.WARNING):
        take_step(head)
    assert "such steps draw no negatives here; raise the rate" in caplog.text
