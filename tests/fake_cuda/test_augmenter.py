"""Augmentation on a CUDA device that computes nothing: its kernels, and what they read and write.

Needs g++ and the torch the device was written for; with CI=true a skip is a failure.
"""

from __future__ import annotations

import pytest

from tests.fake_cuda.process import run_on_device

MOST = {"arcface_dali": (190, 3.5), "adaface": (210, 3.6), "none": (0, 0.0)}  # launches and GB; once 601, 627; 8.0, 6.1

pytestmark = pytest.mark.slow


def test_a_batch_takes_few_kernels_and_nothing_from_the_host() -> None:
    found = run_on_device("augmenter", "128", *MOST)
    assert [each["preset"] for each in found] == list(MOST)
    for each in found:
        launches, gigabytes = MOST[each["preset"]]
        assert each["launches"] <= launches and each["gb"] <= gigabytes, each
        assert each["crossings"] == []
        print(each)
