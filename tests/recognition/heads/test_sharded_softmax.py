"""The sharded head against one process in float64, for 1 to 4 ranks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.distributed import collectives
from recognition.distributed.world import World
from tests.helpers import head_oracle
from tests.helpers.head_cases import BETAS, CASES, EPS, LR, MOMENTUM, WEIGHT_DECAY, Case
from tests.helpers.worlds import run_world, world_sizes

Batches = list[list[tuple[Tensor, Tensor]]]

_worlds: dict[int, list[dict[str, Any]]] = {}
_batches: dict[str, Batches] = {}


def batches_of(case: Case) -> Batches:
    if case.name not in _batches:
        _batches[case.name] = case.steps()
    return _batches[case.name]


def own_rows(tensor: Tensor, world: World) -> Tensor:
    each = len(tensor) // world.size
    return tensor[world.rank * each : (world.rank + 1) * each]


def run_case(world: World, case: Case, steps: Batches) -> dict[str, Any]:
    head = case.head(world)
    optimizer = case.optimizer_of(head)
    found: dict[str, Any] = {"losses": [], "gradients": [], "sampled": []}
    for forwards in steps:
        for weight, (embeddings, labels) in zip(case.forwards, forwards, strict=True):
            leaf = own_rows(embeddings, world).clone().requires_grad_()
            loss = head(leaf, own_rows(labels, world))
            (loss * weight).backward()
            assert head.result is not None
            assert not head.result.refused
            found["losses"].append(loss.item())
            found["gradients"].append(leaf.grad)
            if head.result.sampled is not None:
                found["sampled"].append(head.result.sampled + head.class_range.start)
        if head.centers.grad is not None:
            found.setdefault("center_gradient", head.centers.grad.clone())
        optimizer.step()
        optimizer.zero_grad()
    assert head.result is not None
    found["current"] = head.current_centers()
    head.state.catch_up_(torch.arange(len(head.state.rows)), step=head.steps)  # nothing, without rows that coast
    found["centers"] = head.state_rows()["centers"]
    momentum = head.state_rows().get("momentum")
    found["momentum"] = optimizer.state[head.centers]["momentum_buffer"] if momentum is None else momentum
    found["second_moment"] = head.state_rows().get("second_moment")
    found["means"] = {name: value.item() for name, value in head.result.means().items()}
    found["margin"] = {name: value.item() for name, value in head.margin_state().items()}
    return found


def run_all(world: World, batches: dict[str, Batches]) -> dict[str, Any]:
    found: dict[str, Any] = {case.name: run_case(world, case, batches[case.name]) for case in CASES}
    found["collectives"] = [_count_collectives(world, name, batches[name]) for name in ("float32", "curricularface")]
    return found


def world_results(size: int) -> list[dict[str, Any]]:
    if size not in _worlds:
        _worlds[size] = run_world(size, run_all, {case.name: batches_of(case) for case in CASES}, timeout_s=300)
    return _worlds[size]


def forwards_of(case: Case, ranks: list[dict[str, Any]]) -> list[list[head_oracle.Forward]]:
    """Return the oracle's steps, with the classes that the ranks sampled in each forward."""
    steps, number = [], 0
    for batches in batches_of(case):
        forwards = []
        for weight, (embeddings, labels) in zip(case.forwards, batches, strict=True):
            allowed = None
            if ranks[0]["sampled"]:
                allowed = torch.zeros(case.num_classes, dtype=torch.bool)
                allowed[torch.cat([rank["sampled"][number] for rank in ranks])] = True
            correction = None
            if case.changes.get("sampling_correction") == "logq":
                correction = log_correction(case.num_classes, labels, [rank["sampled"][number] for rank in ranks])
            forwards.append(head_oracle.Forward(embeddings, labels, allowed, weight, correction))
            number += 1
        steps.append(forwards)
    return steps


def log_correction(num_classes: int, labels: Tensor, samples: list[Tensor]) -> Tensor:
    """Return log(1 / q) of the classes that a rank drew beside those of the batch, 0 of these [C]."""
    correction, first = torch.zeros(num_classes, dtype=torch.float64), 0
    for rank, sample in enumerate(samples):
        owned = num_classes // len(samples) + (rank < num_classes % len(samples))
        of_batch = set(labels.tolist()) & set(range(first, first + owned))
        drawn = [c for c in sample.tolist() if c not in of_batch]
        correction[drawn] = math.log((owned - len(of_batch)) / max(1, len(drawn)))
        first += owned
    return correction


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.2e} is above {tolerance:g}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("size", world_sizes(1, 2, 3, long=4))
def test_steps_equal_the_float64_oracle(size: int, case: Case) -> None:
    ranks = [results[case.name] for results in world_results(size)]
    truth = head_oracle.train(
        forwards_of(case, ranks),
        case.centers(),
        case.problem,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        betas=BETAS if case.optimizer == "adamw" else None,
        eps=EPS,
    )
    for rank in ranks:
        assert rank["losses"] == ranks[0]["losses"], "the loss differs between ranks"
        assert rank["means"] == ranks[0]["means"]
        assert rank["margin"] == ranks[0]["margin"], "what the margin has learned differs between ranks"
    assert_close(torch.tensor(ranks[0]["losses"]), torch.tensor(truth.losses).double(), case.tolerance)
    for number, expected in enumerate(truth.embedding_gradients):
        found = torch.cat([rank["gradients"][number] for rank in ranks])
        assert_close(found / size, expected, case.tolerance)  # DDP divides by the number of ranks
    assert_close(torch.cat([rank["centers"] for rank in ranks]), truth.centers, case.tolerance)
    assert_close(torch.cat([rank["current"] for rank in ranks]), truth.centers, case.tolerance)
    assert_close(torch.cat([rank["momentum"] for rank in ranks]), truth.momentum, case.tolerance)
    if case.optimizer == "adamw":
        assert_close(torch.cat([rank["second_moment"] for rank in ranks]), truth.second_moment, case.tolerance)
    for name, expected in truth.state.items():
        assert ranks[0]["margin"][name] == pytest.approx(expected.item(), rel=case.tolerance)
    if "center_gradient" in ranks[0]:
        assert_close(torch.cat([rank["center_gradient"] for rank in ranks]), truth.center_gradient, case.tolerance)


def _count_collectives(world: World, name: str, steps: Batches) -> list[str]:
    calls: list[str] = []

    def counted(kind: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(kind)
            return function(*args, **kwargs)

        return call

    held = collectives._all_gather_single, collectives.dist.all_reduce
    collectives._all_gather_single = counted("gather", held[0])
    collectives.dist.all_reduce = counted("reduce", held[1])
    try:
        run_case(world, next(case for case in CASES if case.name == name), steps[:1])
    finally:
        collectives._all_gather_single, collectives.dist.all_reduce = held
    return calls


@pytest.mark.slow
def test_a_step_is_six_collectives_and_one_more_where_negatives_are_bent() -> None:
    for rank in world_results(2):
        # how many rows each rank brings, rows, labels, (target cosines,) sums; the rows' gradient, the verdict
        assert rank["collectives"] == [["gather"] * 4 + ["reduce"] * 2, ["gather"] * 5 + ["reduce"] * 2]
    assert world_results(1)[0]["collectives"] == [[], []]


def test_the_data_has_rows_that_show_a_wrong_target_gradient() -> None:
    case = next(case for case in CASES if case.name == "margin-arcface")
    embeddings, labels = batches_of(case)[0][0]
    losses, _ = head_oracle.row_losses(embeddings, case.centers(), labels, case.problem)
    probabilities = losses.neg().exp()
    assert int(((probabilities > 0.04) & (probabilities < 0.96)).sum()) >= 7
    assert int((losses.sub(1e-5).abs() < 1e-7).sum()) == 3


def test_the_data_bends_some_negatives_and_leaves_others() -> None:
    case = next(case for case in CASES if case.name == "curricularface")
    embeddings, labels = batches_of(case)[0][0]
    unit, centers = torch.nn.functional.normalize(embeddings), torch.nn.functional.normalize(case.centers())
    cosine = unit @ centers.T
    edge = torch.cos(torch.arccos(cosine.gather(1, labels.unsqueeze(1))) + 0.5)
    is_hard = (cosine > edge).scatter(1, labels.unsqueeze(1), False)
    assert 20 < int(is_hard.sum()) < is_hard.numel() - 20
