"""The head's kernels compiled for GPUs that are not here: nothing spills, and shared memory suffices."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.long
@pytest.mark.parametrize("architecture", [80, 90, 120])
def test_kernels_fit_the_registers_and_the_shared_memory(architecture: int) -> None:
    if importlib.util.find_spec("triton") is None:
        told = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
        told("Triton is not installed (make kernels); its compiler needs no GPU")
    command = [sys.executable, "benchmarks/kernels.py", "--architectures", str(architecture), "--json", "--quiet"]
    # Other tests let Triton interpret kernels; those cannot be compiled.
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert ended.returncode == 0, ended.stderr[-3000:]
    rows = json.loads(ended.stdout)
    assert len(rows) == 13
    assert {row["target"] for row in rows} == {f"sm_{architecture}{'' if architecture == 80 else 'a'}"}
    assert all(row["products"] > 0 for row in rows)
    assert all(row["spilled"] == 0 and 0 < row["registers"] <= 255 for row in rows)
