"""With NCCL a rank that fails says so and leaves, and does not wait in its shutdown for ranks that never come."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Far above what leaving takes and far below the hour that the stand-in for NCCL's shutdown lasts.
PATIENCE_S = 120.0


def run_pair(ending: str) -> list[tuple[int, str]]:
    """Return (status, stderr) of both ranks of a world that ends so; fails where one is still there after a while."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(2):
        place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        environment = {**os.environ, **place, "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "tests.helpers.gpu_worlds", ending]
        ranks.append(subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True))
    deadline = time.monotonic() + PATIENCE_S
    ends = []
    try:
        for number in (0, 1) if ending == "silence" else (1, 0):
            _, err = ranks[number].communicate(timeout=max(1.0, deadline - time.monotonic()))
            ends.append((ranks[number].returncode, err))
            if ending == "silence":
                break
    except subprocess.TimeoutExpired:
        pytest.fail(f"a rank still waits in the shutdown after {PATIENCE_S:g} s")
    finally:
        for process in ranks:
            process.kill()
            process.wait()
    return ends


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ending", "status", "words"),
    [
        ("error", 1, "fake_train: error: train.rec: record 7: found none; expected a JPEG; repair the file"),
        ("bug", 1, "ZeroDivisionError: a mistake of ours"),
        ("stop", 143, ""),
    ],
)
def test_a_rank_that_fails_beside_nccl_leaves_with_its_words(ending: str, status: int, words: str) -> None:
    (found, err), (others, heard) = run_pair(ending)
    assert found == status
    assert words in err
    assert others == 1
    assert "fake_train: error: rank 0: lost the connection to another rank at start-up" in heard


@pytest.mark.slow
def test_a_silent_rank_is_named_by_gloo_before_nccls_watchdog_would_abort() -> None:
    ((status, err),) = run_pair("silence")
    assert status == 1
    assert "fake_train: error: rank 0: waited in vain for the other ranks" in err
