"""Run Python where names that other operating systems lack are removed, in every process that it starts.

Only names are removed: what else differs there (file systems, processes, wheels) this cannot show.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MACOS_AND_LESS = """
import os, signal, sys
import multiprocessing.context as context
sys.modules["fcntl"] = sys.modules["resource"] = None
for name in ("sched_getaffinity", "posix_fallocate", "posix_fadvise", "memfd_create"):
    if hasattr(os, name):
        delattr(os, name)
if hasattr(signal, "SIGUSR1"):
    del signal.SIGUSR1
context._concrete_contexts.pop("forkserver", None)
"""
"""What macOS lacks, and what it has and Windows lacks."""

WINDOWS = (
    MACOS_AND_LESS
    + """
import multiprocessing.reduction
for name in ("pwd", "grp", "termios", "tty", "pty"):
    sys.modules[name] = None
for name in ("fork", "forkpty", "pread", "pwrite", "getuid", "geteuid", "O_NONBLOCK", "O_CLOEXEC"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGUSR2", "SIGALRM", "SIGHUP", "SIGKILL", "SIGCHLD", "alarm", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
context._concrete_contexts.pop("fork", None)
del multiprocessing.reduction.DupFd
"""
)
"""The names of modules, functions and signals that Windows lacks, as far as anything here comes near them."""


def run_on(system: str, code: str, *argv: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` with `argv` in `folder` on a poorer system; its start-up file is left in `folder`."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(system)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *argv]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
