"""A rank whose others are gone or silent ends with one line that says so."""

from __future__ import annotations

import datetime
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from recognition.distributed.world import (
    LostRanksError,
    World,
    join_world,
    naming_lost_ranks,
    report_to_launcher,
)
from recognition.errors import ConfigError
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


ODD = [
    ({"RANK": "abc"}, "RANK: found 'abc' in the environment, expected a whole number from 0 to 0; unset it"),
    ({"RANK": "3"}, "RANK: found '3'"),
    ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK: found '-1' in the environment, expected a whole number from 0 to 1"),
    ({"WORLD_SIZE": "0"}, "WORLD_SIZE: found '0'"),
    ({"WORLD_SIZE": "two"}, "WORLD_SIZE: found 'two'"),
    ({"WORLD_SIZE": "99999999999999999999"}, "WORLD_SIZE: found '9"),
    ({"LOCAL_RANK": "1"}, "LOCAL_RANK: found '1'"),
    ({"WORLD_SIZE": "2"}, "RANK: not set, but WORLD_SIZE is 2; expected what torchrun sets"),
    ({"WORLD_SIZE": "2", "RANK": "1"}, "MASTER_ADDR: not set, but WORLD_SIZE is 2"),
    ({"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "x"}, "MASTER_PORT: found 'x'"),
]


@pytest.mark.parametrize(("variables", "message"), ODD)
def test_an_environment_that_describes_no_world_is_one_line(
    variables: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as hit, join_world("cpu", timeout_s=2):
        pass
    assert str(hit.value).startswith(message)


def test_empty_variables_are_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.setenv(name, "")
    with join_world("cpu") as world:
        assert (world.rank, world.size) == (0, 1)


def test_a_rank_0_that_cannot_be_reached_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with (
        pytest.raises(LostRanksError, match=r":MASTER_PORT 127\.0\.0\.1:9 cannot be reached or opened"),
        join_world("cpu", timeout_s=1),
    ):
        pass


def test_torchrun_is_given_the_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "error.json"
    monkeypatch.delenv("TORCHELASTIC_ERROR_FILE", raising=False)
    report_to_launcher("train_v2: error: it", is_final=True)
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
    report_to_launcher("train_v2: error: it", is_final=False)
    failure = ProcessFailure(local_rank=0, pid=1, exitcode=1, error_file=str(file))
    assert "traceback : train_v2: error: it" in ChildFailedError("train_v2.py", {0: failure}).format_msg()
    monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "absent" / "error.json"))
    report_to_launcher("no place for it", is_final=False)
