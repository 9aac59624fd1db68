"""Which code runs: the revision of a checkout, or the version of an installed library."""

from __future__ import annotations

import contextlib
import json
import subprocess
from importlib import metadata
from pathlib import Path

from recognition import __version__

PACKAGE = Path(__file__).resolve().parent.parent
"""The folder recognition/ that runs."""
_LONGEST_S = 20.0


def find_revision(package: Path = PACKAGE) -> str:
    """Return what `git describe` says of the checkout that holds `package`, else the installed version.

    An installed library is never asked of git: the repository around its environment is the user's own. Where pip
    installed it from a repository, the version is followed by the commit that pip wrote down (PEP 610). A checkout
    without git on the machine has its version alone.
    """
    if (package.parent / ".git").exists():  # a folder, or the file of a linked worktree
        described = _describe(package.parent)
        if described:
            return described
    commit = _installed_commit(package)
    return f"version {__version__}" + (f", commit {commit}" if commit else "")


def _describe(root: Path) -> str:
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        found = subprocess.run(command, capture_output=True, check=False, timeout=_LONGEST_S)
    except (OSError, subprocess.TimeoutExpired):  # git is not installed everywhere, nor every file system quick
        return ""
    text = found.stdout.decode("utf-8", "replace").strip()
    return text if text.isprintable() else ""


def _installed_commit(package: Path) -> str:
    """Return the commit in the direct_url.json beside `package`; "" where there is none."""
    for distribution in metadata.distributions(name="arcshard", path=[str(package.parent)]):
        text = distribution.read_text("direct_url.json")
        if text:
            with contextlib.suppress(ValueError, AttributeError):  # another tool's
                return str(json.loads(text).get("vcs_info", {}).get("commit_id", ""))
    return ""
