"""The sampled head and arcface_torch's own PartialFC_V2, step by step.

Point ARCFACE_TORCH_CONFIGS at the configs folder of a checkout of insightface to run this.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks.partial_fc import compare
from benchmarks.ranks import run_ranks

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("rate", [0.0, 0.1])
def test_coasting_losses_are_those_of_partial_fc_over_300_steps(rate: float) -> None:
    folder = os.environ.get("ARCFACE_TORCH_CONFIGS")
    if not folder:
        pytest.skip("ARCFACE_TORCH_CONFIGS does not name the configs folder of an arcface_torch checkout")
    coast, frozen = run_ranks(1, "cpu", compare, Path(folder).resolve().parent, rate, 300)[0]
    assert coast < 1e-5
    assert frozen > 1e-2
