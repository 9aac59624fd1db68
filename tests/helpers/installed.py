"""The package built as a wheel, and environments into which it is installed, without a network."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import venv
from pathlib import Path

from tests.helpers.places import ROOT

PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]


def copy_source(folder: Path) -> Path:
    """Copy what a build reads into `folder`, so that none is left in the checkout."""
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("recognition", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


def build_wheel(source: Path, folder: Path) -> Path:
    """Build the wheel of a copied source into `folder` and return it."""
    run_outside([*PIP, "wheel", *OFFLINE, "--wheel-dir", str(folder), str(source)], folder)
    (built,) = folder.glob("*.whl")
    return built


def install_wheel(wheel: Path, folder: Path) -> Path:
    """Make an environment in `folder` with the wheel in it; return its bin/."""
    scripts = make_environment(folder)
    run_outside([*PIP, "--python", str(scripts / "python"), "install", *OFFLINE, str(wheel)], wheel.parent)
    return scripts


def make_environment(folder: Path) -> Path:
    """Make an environment that borrows this one's dependencies, but not its editable library; return its bin/."""
    venv.create(folder, with_pip=False, symlinks=True)
    (own,) = folder.glob("lib/*/site-packages")
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


def run_outside(command: list[str], cwd: Path, **environment: str) -> str:
    """Run `command`, which must succeed, as a user would who has no checkout on any path; return its stdout."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=own | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
