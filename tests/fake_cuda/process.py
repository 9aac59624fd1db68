"""Run a module of this folder in a process that has the fake CUDA device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

from tests.fake_cuda.library import reason_to_skip
from tests.helpers.places import ROOT


def run_on_device(module: str, *arguments: str) -> list[Any]:
    """Return the JSON of each line that it prints; the device must be there before torch is imported.

    Skips the test where there can be none, and fails it with CI=true.
    """
    reason = reason_to_skip()
    if reason is not None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{reason}; with CI=true what a GPU is asked to do must be tested")
        pytest.skip(reason)
    command = [sys.executable, "-m", f"tests.fake_cuda.{module}", *arguments]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return [json.loads(line) for line in ended.stdout.splitlines()]
