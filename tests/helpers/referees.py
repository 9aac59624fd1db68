"""Environments of other programs that judge this one, below build/: made once where CI=true asks for it."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.places import ROOT


def python_of(extra: str, *more: str, constrained: bool = False, may_fail: bool = False) -> Path:
    """Return the Python of an environment with the packages of `extra` and `more`; skips the test where it has none.

    `constrained`: with the versions of constraints.txt. `may_fail`: an installation that fails skips the test, and the
    reason says why.
    """
    environment = ROOT / "build" / f"{extra}-referee"
    python = environment / "bin" / "python"
    if (environment / ".ready").exists():
        return python
    if os.environ.get("CI") != "true":
        pytest.skip(f"{environment} is not there; set CI=true to have it made")
    shutil.rmtree(environment, ignore_errors=True)
    wanted = importlib.metadata.requires("arcshard") or []
    packages = [line.split(";")[0] for line in wanted if f'extra == "{extra}"' in line]
    assert packages, f"the package is installed without its {extra} extra's metadata"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    limits = ["-c", ROOT / "constraints.txt"] if constrained else []
    command = [python, "-m", "pip", "install", "--quiet", *limits, *packages, *more]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode and may_fail:
        pytest.skip(f"{extra} cannot be installed: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    (environment / ".ready").touch()
    return python
