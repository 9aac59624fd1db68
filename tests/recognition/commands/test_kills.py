"""A command killed before any change of the disk, and run again, leaves what an undisturbed one leaves."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.helpers.kill_steps import CASES, READERS
from tests.helpers.places import ROOT

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("case", CASES)
def test_a_kill_before_any_change_of_the_disk_leaves_no_trace(case: str) -> None:
    command = [sys.executable, "-m", "tests.helpers.kill_steps", case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)[case]
    # Fewer would mean that the events of the disk are no longer seen. A single file has the fewest.
    assert found["moments"][0] >= (6 if case == "pack_bin" else 19), found["moments"]
    assert found["moments"][1] >= 4, found["moments"]
    assert found["unequal"] == []
    assert case not in READERS or found["refused"] >= 4
