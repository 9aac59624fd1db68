"""One thread per process: the worlds of the tests are processes, and spinning pools would starve them."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

# Before torch or OpenMP is imported, and inherited by every process a test starts.
os.environ["OMP_NUM_THREADS"] = "1"

import torch

# Without a GPU Triton's kernels are interpreted. It reads this when it is imported, as some of torch's modules do.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


@pytest.fixture(autouse=True)
def logs_of_one_test_alone() -> Iterator[None]:
    """Close the log files of a training that a test ran in this process: they would take part in the next test."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in before and not type(handler).__module__.startswith("_pytest"):
            root.removeHandler(handler)
            handler.close()
    root.setLevel(level)
