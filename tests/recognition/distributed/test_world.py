"""A rank whose others are gone or silent ends with one line that says so."""

from __future__ import annotations

import datetime
import time

import pytest
import torch
import torch.distributed as dist

from recognition.distributed.world import LostRanksError, World, naming_lost_ranks
from tests.helpers.worlds import run_world


def _wait_for_a_silent_rank(world: World) -> str:
    group = dist.new_group(timeout=datetime.timedelta(seconds=1))
    dist.barrier(group)
    if world.rank == 1:
        time.sleep(3)  # as a stopped process would
        return ""
    with pytest.raises(LostRanksError) as lost, naming_lost_ranks(world, lambda: "at step 7"):
        dist.all_reduce(torch.zeros(1), group=group)
    return str(lost.value)


@pytest.mark.slow
def test_a_silent_rank_is_waited_for_and_then_named() -> None:
    message, _ = run_world(2, _wait_for_a_silent_rank)
    assert message == (
        "rank 0: waited in vain for the other ranks at step 7; expected all 2; one has died or is stopped: see the "
        "ends of logs/rank*.log, then resume"
    )


@pytest.mark.parametrize(
    "message",
    [
        "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:13",
        "Connection reset by peer",
    ],
)
def test_a_dead_rank_is_named_and_other_errors_stay_what_they_are(message: str) -> None:
    pair = World(1, 2, 1, torch.device("cpu"))
    lost = "rank 1: lost the connection to another rank at step 7; expected all 2"
    with pytest.raises(LostRanksError, match=lost), naming_lost_ranks(pair, lambda: "at step 7"):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="shapes"), naming_lost_ranks(pair, lambda: "at step 7"):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="Connection"), naming_lost_ranks(World(0, 1, 0, pair.device), lambda: ""):
        raise RuntimeError(message)  # alone there is nobody to lose
