"""Every loss of the registry against its paper's equation, whatever the number of ranks."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.heads.by_class import ByClass
from recognition.heads.margins import (
    MARGINS,
    AdaCos,
    ASoftmax,
    CosFace,
    CurricularFace,
    ElasticFace,
    Ldam,
    LSoftmax,
    Margin,
    MVSoftmax,
    OwnRows,
    Softmax,
    SphereFace2,
    UniFace,
)
from recognition.heads.margins.angles import psi
from recognition.heads.margins.elasticface import normal_numbers
from recognition.heads.saving import load_head, save_head
from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers import loss_oracle
from tests.helpers.head_oracle import Forward, Truth
from tests.helpers.heads import ALONE, make_head
from tests.helpers.loss_cases import CASES, LR, MOMENTUM, ROWS, VARIANTS, WEIGHT_DECAY, LossCase
from tests.helpers.worlds import run_world

_SGD = {"lr": LR, "momentum": MOMENTUM, "weight_decay": WEIGHT_DECAY}
# eps far above 1e-8: below it a step is the sign of a gradient that rounding may have turned
_ADAMW: dict[str, Any] = {"lr": LR, "betas": (0.9, 0.99), "eps": 1e-3, "weight_decay": 0.1}


def run_case(world: World, case: LossCase) -> dict[str, Any]:
    head = case.head(world)
    is_dense = head.update == "autograd"
    optimizer: torch.optim.Optimizer
    if is_dense:
        optimizer = torch.optim.SGD(head.parameters(), **_SGD)
    else:
        optimizer = head.optimizer(kind=case.kind, **(_ADAMW if case.kind == "adamw" else _SGD))
    found: dict[str, Any] = {"losses": [], "gradients": [], "sampled": []}
    each = ROWS // world.size
    for embeddings, labels in case.batches():
        own = slice(world.rank * each, (world.rank + 1) * each)
        leaf = embeddings[own].clone().requires_grad_()
        loss = head(leaf, labels[own])
        loss.backward()
        assert head.result is not None
        assert not head.result.refused
        assert leaf.grad is not None
        found["losses"].append(loss.item())
        found["gradients"].append(leaf.grad / world.size)  # as DDP divides
        if head.result.sampled is not None:
            found["sampled"].append(head.result.sampled + head.class_range.start)
        if is_dense:
            found.setdefault("center_gradient", head.centers.grad)
        optimizer.step()
        optimizer.zero_grad()
    return {
        **found,
        "centers": head.centers.detach(),
        "margin": {name: value.item() for name, value in head.margin_state().items()},
        "hardest": head.result.hardest_negative_N,  # type: ignore[union-attr]
    }


def run_all(world: World) -> list[dict[str, Any]]:
    return [run_case(world, case) for case in CASES]


@functools.cache
def _of_world(size: int) -> list[list[dict[str, Any]]]:
    return run_world(size, run_all, timeout_s=300)


def results(size: int, number: int) -> list[dict[str, Any]]:
    """Return what each rank found of a case: one process runs it alone, a world all of them at once."""
    if size == 1:
        return run_world(1, run_case, CASES[number])
    return [of_rank[number] for of_rank in _of_world(size)]


def truth_of(case: LossCase, ranks: list[dict[str, Any]]) -> Truth:
    forwards: list[Forward] = []
    for number, (embeddings, labels) in enumerate(case.batches()):
        allowed = None
        if ranks[0]["sampled"]:
            allowed = torch.zeros(case.num_classes, dtype=torch.bool)
            allowed[torch.cat([rank["sampled"][number] for rank in ranks])] = True
        forwards.append(Forward(embeddings, labels, allowed))
    margins = [_drawn(case, number) for number in range(len(forwards))]

    def optimizer(tensors: list[Tensor]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(tensors, **_ADAMW) if case.kind == "adamw" else torch.optim.SGD(tensors, **_SGD)

    return loss_oracle.train(case.loss, forwards, case.centers(), margins, optimizer=optimizer)


def _drawn(case: LossCase, number: int) -> Tensor | None:
    """Return what ElasticFace draws in a step, before `plus` sorts it: the draws themselves are tested elsewhere."""
    if case.name != "elasticface":
        return None
    draws = normal_numbers(ROWS, 11, torch.tensor(number + 1.0))
    margins = case.settings.get("m", 0.5) + case.settings.get("std", 0.0125) * draws
    if not case.settings.get("plus", False):
        return margins
    return margins.sort().values  # the cases' own angles rise with the row, so that the last row is the farthest


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.2e} is above {tolerance:g}"


@pytest.mark.parametrize(
    ("size", "number"),
    [
        pytest.param(size, number, id=f"{size}-{case.label}", marks=marks)
        for size in (1, 2, 3)
        for number, case in enumerate(CASES)
        for marks in [[] if size == 1 and number < len(VARIANTS) else [pytest.mark.slow]]
    ],
)
def test_a_loss_is_its_equation(size: int, number: int) -> None:
    case, ranks = CASES[number], results(size, number)
    truth = truth_of(case, ranks)
    tolerance = 1e-10 if case.dtype == torch.float64 else 1e-5
    for rank in ranks:
        assert rank["losses"] == ranks[0]["losses"], "the loss differs between ranks"
        assert rank["margin"] == ranks[0]["margin"], "what the margin has learned differs between ranks"
        assert torch.equal(rank["hardest"], ranks[0]["hardest"])
    assert_close(torch.tensor(ranks[0]["losses"]), torch.tensor(truth.losses).double(), tolerance)
    for step, expected in enumerate(truth.embedding_gradients):
        assert_close(torch.cat([rank["gradients"][step] for rank in ranks]), expected, tolerance)
    assert_close(torch.cat([rank["centers"] for rank in ranks]), truth.centers, tolerance)
    if "center_gradient" in ranks[0]:
        assert_close(torch.cat([rank["center_gradient"] for rank in ranks]), truth.center_gradient, tolerance)
    for name, value in truth.state.items():
        assert ranks[0]["margin"][name] == pytest.approx(value.item(), rel=tolerance)


def test_every_loss_has_a_case() -> None:
    assert {name for name, _, _ in VARIANTS} == set(MARGINS)


@pytest.mark.parametrize(
    ("margin", "changes", "message"),
    [
        (LSoftmax(), {"sub_centers": 2}, "head.sub_centers: found 2 with LSoftmax, whose centers are of any length"),
        (Softmax(), {"sub_centers": 3}, "head.sub_centers: found 3 with Softmax, whose centers are of any length"),
        (
            ASoftmax(),
            {"interclass_filtering_threshold": 0.3},
            "head.interclass_filtering_threshold: found 0.3 with ASoftmax, whose negatives are no cosines",
        ),
        (
            SphereFace2(),
            {"label_smoothing": 0.1},
            "head.label_smoothing: found 0.1 with SphereFace2, which has no",
        ),
        (CosFace(), {"label_smoothing": 1.0}, "head.label_smoothing: found 1; expected at least 0 and below 1"),
        (Ldam(), {}, "margin: found no sizes of the classes, which 'ldam' follows; expected the images of each class"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_go_together_is_one_line(margin: Margin, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_head(11, margin=margin, **changes)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


KEEPS: list[Margin] = [AdaCos("last_step"), ASoftmax(), SphereFace2(), UniFace(), Softmax(), ElasticFace()]


def _trained(world: World, margin: Margin, steps: range, head: ShardedSoftmax | None = None) -> ShardedSoftmax:
    """Take steps whose global batch does not depend on the number of ranks."""
    head = head or make_head(23, world=world, margin=margin, dtype=torch.float64)
    optimizer = head.optimizer(**_SGD)
    each = ROWS // world.size
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        rows = torch.randn(ROWS, 16, generator=generator, dtype=torch.float64)
        labels = torch.randint(0, 23, (ROWS,), generator=generator)
        own = slice(world.rank * each, (world.rank + 1) * each)
        head(rows[own], labels[own]).backward()
        optimizer.step()
    return head


def _save_all(world: World, folder: str) -> None:
    for number, margin in enumerate(KEEPS):
        save_head(_trained(world, margin, range(3)), f"{folder}/{number}")


@pytest.mark.slow
def test_heads_with_state_go_on_with_another_number_of_ranks(tmp_path: Path) -> None:
    for number in range(len(KEEPS)):
        (tmp_path / str(number)).mkdir()
    run_world(2, _save_all, str(tmp_path), timeout_s=120)
    for number, margin in enumerate(KEEPS):
        whole = _trained(ALONE, margin, range(5))
        resumed = make_head(23, margin=margin, dtype=torch.float64)
        load_head(resumed, tmp_path / str(number))
        _trained(ALONE, margin, range(3, 5), resumed)
        assert resumed.margin_state().keys() == whole.margin_state().keys()
        for name, value in whole.margin_state().items():
            assert torch.allclose(resumed.margin_state()[name], value, rtol=1e-10), (margin, name)
        assert_close(resumed.centers, whole.centers, 1e-10)


def test_what_elasticface_draws_is_normal_and_new_in_every_step() -> None:
    draws = normal_numbers(50_000, 3, torch.tensor(7.0))
    assert draws.mean().item() == pytest.approx(0, abs=0.02)
    assert draws.std().item() == pytest.approx(1, abs=0.02)
    assert (draws.abs() > 1.96).double().mean().item() == pytest.approx(0.05, abs=0.005)
    assert torch.equal(draws[:100], normal_numbers(100, 3, torch.tensor(7.0)))
    assert not torch.equal(draws, normal_numbers(50_000, 3, torch.tensor(8.0)))
    assert not torch.equal(draws, normal_numbers(50_000, 4, torch.tensor(7.0)))


def test_weights_by_effective_number_have_a_mean_of_one_over_images() -> None:
    sizes = torch.tensor([1, 2, 10, 100])
    for beta in (0.0, 0.9, 0.999):
        weights = ByClass.balanced(sizes, beta).weights
        assert weights is not None
        assert ((weights * sizes).sum() / sizes.sum()).item() == pytest.approx(1, abs=1e-6)
        effective = (1 - beta ** sizes.double()) / (1 - beta)
        assert torch.allclose((weights * effective).double(), (weights * effective)[0].double(), rtol=1e-5)


@pytest.mark.parametrize("m", [1.5, 2.0, 3.0, 4.0])
def test_psi_joins_its_parts_and_is_flat_there(m: float) -> None:
    seams = torch.arange(1, math.ceil(m), dtype=torch.float64) * math.pi / m
    left, right = (psi(torch.cos(seams + side), m) for side in (-1e-7, 1e-7))
    assert torch.allclose(left[0], right[0], atol=1e-6)
    assert torch.allclose(left[0], 1 - 2 * torch.arange(1, math.ceil(m), dtype=torch.float64), atol=1e-6)
    assert bool((left[1] < 1e-5).all() and (right[1] < 1e-5).all())
    value, slope = psi(torch.tensor([1.0, math.cos(2e-3), math.cos(math.pi - 2e-3), -1.0], dtype=torch.float64), m)
    assert value[0].item() == 1
    assert slope[1].item() == pytest.approx(m * m, rel=1e-4)
    assert bool(((slope >= 0) & (slope <= m / 1e-3)).all()), "the stated bound"


def test_a_negative_jumps_by_the_stated_amount_where_it_is_counted_as_hard() -> None:
    own = OwnRows(torch.tensor([0.6], dtype=torch.float64), torch.tensor([0]), None)
    state = {"t": torch.tensor(0.3, dtype=torch.float64)}
    for margin, jump in (
        (MVSoftmax(m=0.35, t=0.2), lambda c: 0.2 * (c + 1)),
        (MVSoftmax(m=0.35, weight="fixed", t=0.2), lambda c: 0.2),
        (CurricularFace(), lambda c: c * (0.3 + c) - c),
    ):
        edge = margin.target(state, own).logit.item()
        tile = torch.tensor([[edge - 1e-9, edge, edge + 1e-9]], dtype=torch.float64)
        bent, _ = margin.negative(state, own, tile.clone())
        assert (bent - tile)[0, :2].abs().max() < 1e-12, "at the edge it is not hard yet"
        assert (bent - tile)[0, 2].item() == pytest.approx(jump(edge), abs=1e-7)


FORMATS: list[dict[str, Any]] = [
    {"centers_format": "bf16", "momentum_format": "int8"},
    {"centers_format": "bf16", "momentum_format": "bf16"},
    {"momentum_format": "int8"},
]


@pytest.mark.slow
@pytest.mark.parametrize("name", MARGINS)
def test_a_loss_trains_in_every_state_format(name: str) -> None:
    case = LossCase(name, scale=64.0 if name == "circle" else 16.0, dtype=torch.float32)
    exact = _losses_of(case)
    for formats in FORMATS if MARGINS[name].rows == "unit" else FORMATS[:1]:
        found = _losses_of(replace(case, changes=formats))
        assert found == pytest.approx(exact, rel=0.02), formats
        assert found != exact, "the format rounds"


def _losses_of(case: LossCase) -> list[float]:
    """Return the losses of a few steps that repeat one batch."""
    head = case.head(ALONE)
    optimizer = head.optimizer(**_SGD)
    embeddings, labels = case.batches()[0]
    found = []
    for _ in range(5):
        loss = head(embeddings, labels)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    assert found[-1] < found[0]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", MARGINS)
def test_corrected_sums_of_a_sample_are_near_those_of_all_classes(name: str) -> None:
    case = LossCase(name, scale=8.0)
    smoothing = 0.1 if MARGINS[name].sums == "softmax" else 0.0
    case = replace(case, changes={"label_smoothing": smoothing})
    embeddings, labels = case.batches()[0]
    whole = case.head(ALONE)(embeddings, labels).item()
    sampled = {**case.changes, "sample_rate": 0.5, "sampling_correction": "logq"}
    head = replace(case, changes=sampled).head(ALONE)
    found = []
    for step in range(200):
        head.steps = step  # a new sample
        found.append(head(embeddings, labels).item())
        head.forget()
    assert sum(found) / len(found) == pytest.approx(whole, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=lambda number: CASES[number].label)
def test_a_loss_is_the_same_where_the_device_decides(number: int) -> None:
    case = CASES[number]
    ways = []
    for mode in ("host", "device"):
        head = replace(case, changes={"mode": mode}).head(ALONE)
        optimizer = head.optimizer(**_SGD)
        for embeddings, labels in case.batches():
            head(embeddings, labels).backward()
            optimizer.step()
        ways.append(head)
    assert_close(ways[1].centers, ways[0].centers, 1e-12)
    assert {n: v.item() for n, v in ways[0].margin_state().items()} == pytest.approx(
        {n: v.item() for n, v in ways[1].margin_state().items()}, rel=1e-12
    )
