"""What each rank gives, gets, and the gradient, for 1 to 4 ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from recognition.distributed import collectives
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import DataError
from tests.helpers.worlds import run_world, world_sizes

WEIGHT = torch.arange(6, dtype=torch.float64).view(2, 3) / 7


def _exercise(world: World) -> dict[str, Any]:
    rank = world.rank
    rows = torch.full((2, 3), float(rank), dtype=torch.float64, requires_grad=True)
    gathered = collectives.gather_rows(rows, world)
    (gathered * (torch.arange(len(gathered)).unsqueeze(1) + 1) * (rank + 1)).sum().backward()
    not_a_number = torch.tensor([1.0, torch.nan if rank == world.size - 1 else 2.0])
    return {
        "gathered": gathered.detach(),
        "gradient": rows.grad,
        "stack": collectives.gather_stack(torch.tensor([rank, rank + 10]), world),
        "nan_stack": collectives.gather_stack(not_a_number, world),
        "sum": collectives.all_reduce_sum_(not_a_number.clone(), world),
        "max": collectives.all_reduce_max_(torch.tensor([rank, -rank]), world),
        "broadcast": collectives.broadcast_(torch.tensor([rank + 5]), world, source=world.size - 1),
        "objects": collectives.gather_values({"rank": rank}, world),
        "numbers": collectives.gather_numbers([rank, 2**40 + rank], world),
        "together": together(lambda: rank * 2, world),
        "failures": [_failure(world, error) for error in (DataError("a.rec: torn"), KeyError("x"), None)],
        "share": collectives.reduce_scatter_rows(torch.ones(2 * world.size, 3) * (rank + 1), world),
        "ddp": _gradient_under_ddp(world),
    }


def _failure(world: World, error: Exception | None) -> str:
    """Let the last rank fail and return what this one hears."""

    def work() -> None:
        if error is not None and world.rank == world.size - 1:
            raise error

    try:
        together(work, world)
    except (DataError, KeyError) as err:
        return str(err)
    return ""


def _gradient_under_ddp(world: World) -> torch.Tensor:
    module: nn.Module = nn.Linear(3, 2, bias=False, dtype=torch.float64)
    with torch.no_grad():
        module.weight.copy_(WEIGHT)  # type: ignore[operator]
    wrapped = DistributedDataParallel(module) if world.size > 1 else module
    images = torch.arange(36, dtype=torch.float64).view(12, 3).sin()
    each = len(images) // world.size
    out = collectives.gather_rows(wrapped(images[world.rank * each : (world.rank + 1) * each]), world)
    # Every rank's own part of one loss, as the head has it: its share of the classes.
    share = out.square().sum(0) * torch.tensor([column % world.size == world.rank for column in range(2)])
    share.sum().backward()
    gradient = module.weight.grad
    assert isinstance(gradient, torch.Tensor)
    return gradient


@pytest.mark.parametrize("size", world_sizes(1, 2, 3, long=4))
def test_what_each_rank_gets(size: int) -> None:
    results = run_world(size, _exercise)
    images = torch.arange(36, dtype=torch.float64).view(12, 3).sin()
    weight = WEIGHT.clone().requires_grad_()
    (images @ weight.T).square().sum().backward()
    total = size * (size + 1) / 2
    for rank, result in enumerate(results):
        assert torch.equal(
            result["gathered"], torch.arange(size).repeat_interleave(2).unsqueeze(1).expand(-1, 3).double()
        )
        expected = (torch.tensor([2 * rank, 2 * rank + 1]).unsqueeze(1) + 1.0).expand(-1, 3) * total * size
        assert torch.equal(result["gradient"], expected.double())
        assert result["stack"].tolist() == [[r, r + 10] for r in range(size)]
        assert result["nan_stack"][-1].isnan().tolist() == [False, True]
        assert result["sum"].isnan().tolist() == [False, True]
        assert result["max"].tolist() == [size - 1, 0]
        assert result["broadcast"].item() == size + 4
        assert result["objects"] == [{"rank": r} for r in range(size)]
        assert result["numbers"] == [[r, 2**40 + r] for r in range(size)]
        assert result["together"] == [2 * r for r in range(size)]
        mistake = "'x'" if rank == size - 1 else f"rank {size - 1}: KeyError: 'x'"
        assert result["failures"] == ["a.rec: torn" if size == 1 else f"rank {size - 1}: a.rec: torn", mistake, ""]
        assert torch.equal(result["share"], torch.full((2, 3), total))
        assert torch.allclose(result["ddp"], weight.grad, rtol=1e-12)


def _fails_on_rank_1(world: World) -> None:
    if world.rank == 1:
        raise ValueError("as planned")
    collectives.barrier(world)


@pytest.mark.slow
def test_the_harness_reports_the_rank_that_failed() -> None:
    with pytest.raises(AssertionError, match=r"rank 1 failed:(.|\n)*as planned"):
        run_world(2, _fails_on_rank_1)
