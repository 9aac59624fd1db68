"""A step counts on every rank or on none: NaN in any place, overflow found later, and what happens once only."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from recognition.distributed.world import World
from recognition.heads.margins import (
    AdaCos,
    AdaFace,
    ArcFace,
    ASoftmax,
    CombinedMargin,
    CosFace,
    CurricularFace,
    ElasticFace,
    LSoftmax,
    Margin,
    Softmax,
    SphereFace,
    SphereFace2,
    UniFace,
)
from recognition.heads.sharded_softmax import ShardedSoftmax
from recognition.heads.unit import unit_and_length
from tests.helpers.heads import ALONE, batch, make_head, make_trained, optimizer_of, same_bits, snapshot, take_step
from tests.helpers.worlds import run_world, world_sizes

NUM_CLASSES, BATCH = 37, 4

FORMATS: list[dict[str, Any]] = [
    {},
    {"centers_format": "bf16", "momentum_format": "int8"},
    {"sample_rate": 0.5},
    {"margin": AdaFace()},
    {"margin": CurricularFace()},
    {"kind": "adamw"},
    {"kind": "adamw", "centers_format": "bf16", "momentum_format": "int8"},
    {"kind": "adamw", "momentum_format": "bf16", "sample_rate": 0.5},
    {"update": "autograd"},
    {"update": "autograd", "margin": CurricularFace()},
    {"update": "autograd", "margin": UniFace()},
    {"margin": AdaCos("last_step")},
    {"margin": AdaCos("this_step"), "sample_rate": 0.5},
    {"margin": ElasticFace()},
    {"margin": LSoftmax()},
    {"margin": ASoftmax(), "momentum_format": "int8"},
    {"margin": Softmax()},
    {"margin": SphereFace2()},
    {"margin": UniFace(), "sample_rate": 0.5},
    {"label_smoothing": 0.1},
]
PLACES = ("embedding", "center", "factor", "none")


def _plant(world: World, place: str, culprit: int, changes: dict[str, Any]) -> tuple[bool, bool]:
    """Take two good steps, then one with a NaN in `place` of one rank; return (refused, nothing moved)."""
    head, optimizer = make_trained(NUM_CLASSES, world=world, **changes)
    for step in range(2):
        take_step(head, optimizer, batch(head, BATCH, step))
    embeddings, labels = batch(head, BATCH, 2)
    factor = 1.0
    if world.rank == culprit:
        if place == "embedding":
            embeddings = embeddings.detach().index_put((torch.tensor(1), torch.tensor(3)), torch.tensor(torch.nan))
            embeddings.requires_grad_()
        if place == "center":
            head.state_rows()["centers"][0, 2] = torch.nan
            labels = torch.full_like(labels, head.class_range.start)  # in the sample, if there is one
        if place == "factor":
            factor = torch.inf
    before = snapshot(head)
    loss = head(embeddings, labels)
    (loss * factor).backward()
    if head.update == "autograd":
        assert head.result is not None
        assert head.centers.grad is not None
        gradients = [p.grad for p in head.parameters() if p.grad is not None]
        is_still = not any(each.any() for each in gradients) and same_bits(before, snapshot(head))
        return bool(head.result.refused) or factor != 1.0, is_still
    optimizer.step()
    return bool(optimizer.refused), same_bits(before, snapshot(head))  # type: ignore[attr-defined]


def _plant_everywhere(world: World) -> dict[tuple[str, int, int], tuple[bool, bool]]:
    return {
        (place, culprit, number): _plant(world, place, culprit, changes)
        for place in PLACES
        for culprit in range(world.size)
        for number, changes in enumerate(FORMATS)
    }


@pytest.mark.parametrize("size", world_sizes(1, 3))
def test_a_nan_anywhere_moves_nothing_anywhere(size: int) -> None:
    ranks = run_world(size, _plant_everywhere, timeout_s=300)
    for (place, culprit, number), _ in ranks[0].items():
        is_own_optimizer = FORMATS[number].get("update") == "autograd"
        for rank, results in enumerate(ranks):
            refused, is_still = results[place, culprit, number]
            if is_own_optimizer and place == "factor" and rank != culprit:
                continue  # the other ranks' gradients are good, and it is their optimizer's business
            name = f"{place} of rank {culprit}, {FORMATS[number]}, seen by {rank}"
            assert refused == (place != "none"), name
            assert is_still == (place != "none"), name


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_loss_scales_give_bit_equal_centers(kind: str) -> None:
    states, gradients = [], []
    for scale in (1.0, 1024.0, 65536.0):
        head, optimizer = make_trained(NUM_CLASSES, kind=kind)
        for step in range(3):
            optimizer.grad_scale, optimizer.found_inf = torch.tensor(scale), torch.zeros(())
            _, gradient, _ = take_step(head, optimizer, batch(head, BATCH, step), factor=scale)
        states.append(snapshot(head))
        gradients.append(gradient / scale)
    assert same_bits(states[0], states[1])
    assert same_bits(states[0], states[2])
    assert torch.equal(gradients[0], gradients[2])


def test_a_step_can_be_refused_after_its_backward() -> None:
    head = make_head(NUM_CLASSES)
    optimizer = head.optimizer(lr=0.1, momentum=0.9)
    before = snapshot(head)
    optimizer.found_inf = torch.tensor(1.0)
    assert take_step(head, optimizer, batch(head, BATCH))[2]
    assert head.result is not None
    assert head.result.refused
    assert same_bits(before, snapshot(head))
    del optimizer.found_inf
    take_step(head, optimizer, batch(head, BATCH))
    assert not same_bits(before, snapshot(head))


def test_dropped_gradients_move_nothing() -> None:
    for drop in ("zero_grad", "by hand"):
        head = make_head(NUM_CLASSES)
        optimizer = head.optimizer(lr=0.1, momentum=0.9)
        before = snapshot(head)
        head(*batch(head, BATCH)).backward()
        if drop == "zero_grad":
            optimizer.zero_grad()
        else:
            optimizer.param_groups[0]["params"][0].grad = None
        optimizer.step()
        assert same_bits(before, snapshot(head))


def test_a_loss_taken_twice_counts_twice() -> None:
    heads = [make_head(NUM_CLASSES), make_head(NUM_CLASSES)]
    for head, times in zip(heads, (1, 2), strict=True):
        optimizer = head.optimizer(lr=0.1, momentum=0.9)
        loss = head(*batch(head, BATCH)) * (2 // times)
        for _ in range(times):
            loss.backward(retain_graph=True)
        optimizer.step()
    assert torch.allclose(heads[0].centers, heads[1].centers, rtol=0, atol=1e-8)


def test_a_backward_after_the_step_raises() -> None:
    head = make_head(NUM_CLASSES)
    optimizer = head.optimizer(lr=0.1)
    losses = [head(*batch(head, BATCH, step)) for step in range(2)]
    losses[0].backward()
    optimizer.step()
    with pytest.raises(RuntimeError, match="backward after the centers have moved"):
        losses[1].backward()


def test_a_step_whose_centers_were_loaded_since_raises() -> None:
    head = make_head(NUM_CLASSES)
    optimizer = head.optimizer(lr=0.1)
    head(*batch(head, BATCH)).backward()
    head.load_state_dict(head.state_dict())
    with pytest.raises(RuntimeError, match="step after the centers have moved since its forward"):
        optimizer.step()


def test_nothing_moves_without_gradients_or_in_eval_mode() -> None:
    head = make_head(NUM_CLASSES, margin=CurricularFace(), sample_rate=0.5)
    optimizer = head.optimizer(lr=0.1, momentum=0.9)
    before = snapshot(head)
    embeddings, labels = batch(head, BATCH)
    with torch.no_grad():
        quiet = head(embeddings, labels)
    head.eval()
    loss = head(embeddings, labels)
    assert loss.item() == quiet.item()
    loss.backward()
    assert embeddings.grad is not None
    assert embeddings.grad.any()
    optimizer.step()
    assert same_bits(before, snapshot(head))


def test_a_frozen_backbone_lets_the_centers_learn() -> None:
    head = make_head(NUM_CLASSES)
    optimizer = head.optimizer(lr=0.1)
    before = snapshot(head)
    embeddings, labels = batch(head, BATCH)
    head(embeddings.detach(), labels).backward()
    optimizer.step()
    assert not same_bits(before, snapshot(head))


EXACT: list[Margin] = [
    ArcFace(0.5, "exact"),
    SphereFace(1.35, "exact"),
    CosFace(0.4),
    AdaFace(length_gradient="exact"),
    CurricularFace(),
]


@pytest.mark.parametrize("cosine", [1.0, -1.0])
@pytest.mark.parametrize("num_classes", [2, pytest.param(1_000_000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("margin", EXACT, ids=lambda margin: type(margin).__name__)
def test_finite_at_the_ends_of_the_cosine(cosine: float, num_classes: int, margin: Margin) -> None:
    head = make_head(num_classes, 4, margin=margin, block_size=65536, seed=0)
    labels = torch.tensor([0, 1])
    embeddings = (head.centers[labels] * cosine).clone().requires_grad_()
    loss, gradient, refused = take_step(head, head.optimizer(lr=0.1), (embeddings, labels))
    assert not refused
    assert loss < torch.inf
    assert bool(gradient.isfinite().all())
    assert bool(head.centers.isfinite().all())


@pytest.mark.parametrize("length", [0.0, 1e-30, 1e30])
def test_embeddings_of_any_length_are_safe(length: float) -> None:
    for margin in (ArcFace(), AdaFace(length_gradient="exact")):
        head = make_head(NUM_CLASSES, margin=margin)
        embeddings, labels = batch(head, BATCH)
        embeddings = (embeddings.detach() * length).requires_grad_()
        loss, gradient, refused = take_step(head, head.optimizer(lr=0.1), (embeddings, labels))
        assert not refused
        assert loss < torch.inf
        assert bool(gradient.isfinite().all())


def test_unit_rows_and_lengths_have_the_gradients_of_the_plain_formulas() -> None:
    rows = torch.randn(5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    unit, length = unit_and_length(rows)
    assert torch.allclose(unit, torch.nn.functional.normalize(rows), atol=1e-15)
    assert torch.allclose(length, rows.norm(dim=1), atol=1e-14)
    assert torch.autograd.gradcheck(unit_and_length, rows)


@pytest.mark.parametrize(
    "margin",
    [ArcFace(0.5, "exact"), CombinedMargin(0.9, 0.4, 0.15, "exact"), CosFace(0.4), CurricularFace(alpha=1e-9)],
    ids=lambda margin: type(margin).__name__,
)
def test_gradcheck_with_exact_gradients(margin: Margin) -> None:
    head = make_head(7, 5, margin=margin, update="autograd", scale=8.0, block_size=3, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    head.set_centers(0, torch.randn(7, 5, generator=generator, dtype=torch.float64))
    embeddings = torch.randn(4, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels = torch.tensor([0, 3, 3, 6])
    assert torch.autograd.gradcheck(lambda rows, _: head(rows, labels), (embeddings, head.centers))


def test_a_sample_smaller_than_the_batch_warns(caplog: pytest.LogCaptureFixture) -> None:
    head = make_head(NUM_CLASSES, sample_rate=0.03)
    with caplog.at_level(logging.WARNING):
        take_step(head, optimizer_of(head), batch(head, BATCH))
    assert "such steps draw no negatives here; raise the rate" in caplog.text


def test_one_head_is_one_object_in_a_world_of_one() -> None:
    assert ShardedSoftmax(5, 4).world == ALONE
