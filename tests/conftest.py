"""One thread per process: the worlds of the tests are processes, and spinning pools would starve them."""

from __future__ import annotations

import os

# Before torch or OpenMP is imported, and inherited by every process a test starts.
os.environ["OMP_NUM_THREADS"] = "1"
