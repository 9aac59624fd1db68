"""The sharded head against one process in float64, for 1 to 4 ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.distributed import collectives
from recognition.distributed.world import World
from recognition.heads.sharded_softmax import ShardedSoftmax
from tests.helpers.worlds import run_world, world_sizes
from tests.recognition.heads import oracle
from tests.recognition.heads.cases import CASES, EMBEDDING_SIZE, LR, MOMENTUM, WEIGHT_DECAY, Case

Inputs = tuple[Tensor, list[tuple[Tensor, Tensor]]]  # centers, and (embeddings, labels) of each step

_worlds: dict[int, list[dict[str, dict[str, Any]]]] = {}
_inputs: dict[str, Inputs] = {}


def inputs_of(case: Case) -> Inputs:
    if case.name not in _inputs:
        _inputs[case.name] = case.centers(), case.steps()
    return _inputs[case.name]


def make_head(case: Case, centers: Tensor, world: World) -> ShardedSoftmax:
    head = ShardedSoftmax(
        case.num_classes,
        EMBEDDING_SIZE,
        world=world,
        config=case.config,
        seed=5,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        dtype=case.dtype,
    )
    head.set_centers(0, centers)
    return head


def own_rows(tensor: Tensor, world: World) -> Tensor:
    each = len(tensor) // world.size
    return tensor[world.rank * each : (world.rank + 1) * each]


def run_case(world: World, case: Case, inputs: Inputs) -> dict[str, Any]:
    centers, steps = inputs
    head = make_head(case, centers, world)
    optimizer = None
    if case.config.update == "autograd":
        optimizer = torch.optim.SGD(head.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    result: dict[str, Any] = {"losses": [], "gradients": [], "sampled": []}
    for number, (embeddings, labels) in enumerate(steps):
        leaf = own_rows(embeddings, world).clone().requires_grad_()
        head.begin_step(step=number, lr=LR)
        loss = head(leaf, own_rows(labels, world))
        loss.backward()
        if optimizer is not None:
            assert head.centers.grad is not None
            result.setdefault("center_gradient", head.centers.grad.clone())
            optimizer.step()
            optimizer.zero_grad()
        head.finish_step(head.refused)
        result["losses"].append(loss.item())
        result["gradients"].append(leaf.grad)
        if head.sampled is not None:
            result["sampled"].append(head.sampled + head.class_range.start)
        assert head.refused.item() == 0
    result["centers"] = head.state_rows()["centers"].detach()
    if optimizer is not None:
        result["momentum"] = optimizer.state[head.centers]["momentum_buffer"]
    else:
        result["momentum"] = head.state_rows()["momentum"]
    result["stats"] = {name: value.item() for name, value in head.stats.items()}
    return result


def run_all(world: World, inputs: dict[str, Inputs]) -> dict[str, dict[str, Any]]:
    return {case.name: run_case(world, case, inputs[case.name]) for case in CASES}


def world_results(size: int) -> list[dict[str, dict[str, Any]]]:
    if size not in _worlds:
        _worlds[size] = run_world(size, run_all, {case.name: inputs_of(case) for case in CASES}, timeout_s=300)
    return _worlds[size]


def allowed_classes(case: Case, ranks: list[dict[str, Any]]) -> list[Tensor]:
    """Return, per step, which of all classes the ranks sampled [C] bool."""
    masks = []
    for number in range(case.num_steps):
        mask = torch.zeros(case.num_classes, dtype=torch.bool)
        mask[torch.cat([rank["sampled"][number] for rank in ranks])] = True
        masks.append(mask)
    return masks


def assert_close(found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= tolerance, f"relative error {error:.2e} is above {tolerance:g}"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("size", world_sizes(1, 2, 3, long=4))
def test_steps_equal_the_float64_oracle(size: int, case: Case) -> None:
    ranks = [results[case.name] for results in world_results(size)]
    centers, steps = inputs_of(case)
    truth = oracle.train(
        steps,
        centers,
        case.problem,
        lr=LR * case.config.lr_factor,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        allowed=allowed_classes(case, ranks) if ranks[0]["sampled"] else None,
    )
    for rank in ranks:
        assert rank["losses"] == ranks[0]["losses"], "the loss differs between ranks"
        assert rank["stats"] == ranks[0]["stats"]
    assert_close(torch.tensor(ranks[0]["losses"]), torch.tensor(truth.losses).double(), case.tolerance)
    for number, expected in enumerate(truth.embedding_gradients):
        found = torch.cat([rank["gradients"][number] for rank in ranks])
        assert_close(found / size, expected, case.tolerance)  # DDP divides by the number of ranks
    assert_close(torch.cat([rank["centers"] for rank in ranks]), truth.centers, case.tolerance)
    assert_close(torch.cat([rank["momentum"] for rank in ranks]), truth.momentum, case.tolerance)
    if "center_gradient" in ranks[0]:
        assert_close(torch.cat([rank["center_gradient"] for rank in ranks]), truth.center_gradient, case.tolerance)


def _count_collectives(world: World) -> list[str]:
    calls: list[str] = []

    def counted(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            calls.append(name)
            return function(*args, **kwargs)

        return call

    collectives._all_gather_single = counted("gather", collectives._all_gather_single)
    collectives.dist.all_reduce = counted("reduce", collectives.dist.all_reduce)
    case = Case("deferred", num_steps=1, changes={"update": "deferred"})
    run_case(world, case, inputs_of(case))
    return calls


@pytest.mark.slow
def test_a_step_is_five_collectives() -> None:
    for calls in run_world(2, _count_collectives):
        assert calls == ["gather", "gather", "gather", "reduce", "reduce"]


def test_the_data_has_rows_that_show_a_wrong_target_gradient() -> None:
    case = next(case for case in CASES if case.name == "margin-arcface")
    embeddings, labels = case.steps()[0]
    losses = oracle.row_losses(embeddings, case.centers(), labels, case.problem)
    probabilities = losses.neg().exp()
    assert int(((probabilities > 0.04) & (probabilities < 0.96)).sum()) >= 7
    assert int((losses.sub(1e-5).abs() < 1e-7).sum()) == 3
