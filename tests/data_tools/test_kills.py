"""Killed with SIGKILL at every step on the disk and run again, the commands end like undisturbed runs."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("command", "least"), [("align", 25), ("crop", 20), ("embed", 20), ("clean", 40)])
def test_a_kill_at_any_step_changes_nothing(command: str, least: int, tmp_path: Path) -> None:
    script = [sys.executable, "tests/data_tools/kill_every_step.py", command, str(tmp_path)]
    found = json.loads(subprocess.run(script, cwd=ROOT, check=True, stdout=subprocess.PIPE).stdout)
    assert found["wrong"] == []
    assert found["kills"] >= least, "the steps are no longer seen"
