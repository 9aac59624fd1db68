"""Blocks of pictures embedded on a CUDA device that computes nothing: what the host waits for.

Needs g++ and the torch the device was written for; with CI=true a skip is a failure.
"""

from __future__ import annotations

import pytest

from tests.fake_cuda.process import run_on_device

pytestmark = pytest.mark.slow


def test_the_host_waits_for_a_block_when_the_next_is_under_way() -> None:
    (seen,) = run_on_device("embedding", "4")
    assert seen["blocks"] == [0, 1, 2, 3]
    assert seen["shapes"] == [[64, 16]]
    assert seen["waits"] == []  # no copy that is waited for, bf16 or not
    assert seen["met"] == ["mark", *["mark", "wait", "read"] * 3, "wait", "read"]
