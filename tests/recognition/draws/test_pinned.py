"""The numbers drawn are those of every release before: a run resumed by another version sees the same images.

They were read off the version of November 2026, before its two copies of SplitMix64 became one.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from recognition.draws.hashing import derive_key, mix, mix64
from recognition.draws.permutation import Permutation
from recognition.draws.rounding import stochastic_bf16_bits
from recognition.feed.orders import IdentityOrder, ImageOrder
from recognition.images.augment import flip_mask, uniform

NUMBERS = np.array([0, 1, -1, 2**40, -(2**63), 2**63 - 1])


@pytest.mark.parametrize("form", [np.asarray, torch.from_numpy])
def test_the_bits_are_mixed_as_before(form: Callable[[Any], Any]) -> None:
    assert mix64(form(NUMBERS)).tolist() == [
        0, 6238072747940578789, -5417735806833148549, 48217637115032568, 2720858781877447050, 6514504133438201533,
    ]  # fmt: skip
    assert mix(form(NUMBERS), 7, -1, 2**40).tolist() == [
        2954426729429155838, 5402968337851218395, 4333388294135065462, 5149213043256122124, 5067621234910506401,
        3868698213541275001,
    ]  # fmt: skip


def test_the_keys_are_those_of_before() -> None:
    found = [derive_key(*key) for key in ((0,), (1, 2, 3), (3, 2, 1), (-1, 2**63))]
    assert found == [-2152535657050944081, 7702586659592502839, -3014456889458036892, -580606673856880730]
    assert (int(mix(torch.tensor(3), 5)), int(mix(torch.tensor(0), 0, 0))) == (201096130303386169, 62288732260149630)


def test_orders_are_those_of_before() -> None:
    first = np.arange(8)
    assert Permutation(1003, 3, 2)(first).tolist() == [243, 727, 574, 82, 359, 667, 475, 538]
    assert ImageOrder(1003, 3, block=4).epoch(2)(first).tolist() == [936, 405, 402, 947, 441, 152, 155, 413]
    by_identity = IdentityOrder(np.repeat(np.arange(9), 7), 3, per_identity=4).epoch(1)
    assert by_identity(first).tolist() == [34, 31, 32, 29, 62, 56, 59, 58]


def test_augmentation_draws_what_it_drew_before() -> None:
    expected = [0.9667797684669495, 0.39750033617019653, 0.007489383220672607, 0.6339906454086304, 0.3367763161659241]
    assert uniform(1, 2, torch.arange(5), 17).tolist() == expected
    assert flip_mask(3, 1, torch.arange(12), 0.5).nonzero().flatten().tolist() == [4, 7]


def test_rounding_is_that_of_before() -> None:
    values = (torch.arange(-2048, 2048).float() / 1365).reshape(64, 64)
    rounded = stochastic_bf16_bits(values, row_keys=mix(torch.arange(64), 1, 2), salt=9)
    assert zlib.crc32(rounded.contiguous().numpy().tobytes()) == 1353755410
