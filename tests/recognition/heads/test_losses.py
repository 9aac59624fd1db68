"""Every loss of the registry against its paper's equation, whatever the number of ranks."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from recognition.distributed.world import World
from recognition.heads.margins import MARGINS
from recognition.heads.margins.elasticface import normal_numbers
from tests.helpers import loss_oracle
from tests.helpers.head_oracle import Forward, Truth
from tests.helpers.loss_cases import CASES, LR, MOMENTUM, ROWS, VARIANTS, WEIGHT_DECAY, LossCase
from tests.helpers.worlds import run_world, world_sizes

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
def results(size: int) -> list[list[dict[str, Any]]]:
    return run_world(size, run_all, timeout_s=300)


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


@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda number: CASES[number].label)
@pytest.mark.parametrize("size", world_sizes(1, 2, 3))
def test_a_loss_is_its_equation(size: int, number: int) -> None:
    case, ranks = CASES[number], [results_of[number] for results_of in results(size)]
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
