import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recognition.draws.hashing import derive_key, mix64
from recognition.draws.permutation import Permutation


@pytest.mark.parametrize("sizes", [range(1, 400), range(401, 10_001, 97), [9_999, 10_000, 65_536, 65_537]])
def test_every_element_stands_at_exactly_one_position(sizes):
    for n in sizes:
        assert np.array_equal(np.sort(Permutation(n, 7, n)(np.arange(n))), np.arange(n)), n


@pytest.mark.slow
def test_large_sets_have_no_collision_among_sampled_positions():
    n = 42_474_557
    positions = np.random.default_rng(0).choice(n, 2_000_000, replace=False)
    elements = Permutation(n, 2048, 3)(positions)
    assert len(np.unique(elements)) == len(positions)
    assert elements.min() >= 0
    assert elements.max() < n


def test_any_position_can_be_asked_for_alone():
    order = Permutation(1000, 5, 0)
    whole = order(np.arange(1000))
    assert [int(order(i)[0]) for i in (0, 999, 500)] == [whole[0], whole[999], whole[500]]


def test_epochs_and_seeds_give_unrelated_orders():
    orders = [Permutation(10_000, seed, epoch)(np.arange(10_000)) for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            # The number of fixed points between two random orders is Poisson with mean 1.
            assert (one == other).sum() < 12


@pytest.mark.parametrize(("n", "bins"), [(7, 7), (100, 20), (10_007, 50), (1_000_000, 50)])
def test_positions_of_elements_pass_a_chi_square_test(n, bins):
    """Over many keys, where the first and the last element land is uniform, and so is their joint cell."""
    trials = 3000
    drawn = np.array([Permutation(n, 11, trial)([0, n - 1]) for trial in range(trials)]) * bins // n
    expected = np.histogram(np.arange(n) * bins // n, bins, (0, bins))[0] * trials / n
    for column in range(2):
        statistic = ((np.bincount(drawn[:, column], minlength=bins) - expected) ** 2 / expected).sum()
        assert statistic < (bins - 1) + 4 * np.sqrt(2 * (bins - 1))  # four standard deviations
    if n > 1000:
        joint = np.bincount(drawn[:, 0] // 5 * 10 + drawn[:, 1] // 5, minlength=100)
        assert ((joint - trials / 100) ** 2 / (trials / 100)).sum() < 99 + 4 * np.sqrt(2 * 99)


def test_neighbors_are_torn_apart():
    elements = Permutation(1_000_000, 1, 2)(np.arange(200_000))
    assert abs(np.corrcoef(elements[:-1], elements[1:])[0, 1]) < 0.01


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=20))
def test_hash_equals_splitmix64_on_arrays_and_tensors(values):
    def reference(x):
        x &= 2**64 - 1
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return x ^ x >> 31

    expected = [reference(value) for value in values]
    assert [int(x) % 2**64 for x in mix64(np.array(values, dtype=np.int64))] == expected
    assert [x % 2**64 for x in mix64(torch.tensor(values)).tolist()] == expected


def test_first_output_of_splitmix64_is_the_published_one():
    # SplitMix64 seeded with 0 begins with this word.
    assert derive_key(0) % 2**64 == 0xE220A8397B1DCDAF


def test_keys_depend_on_order_and_number_of_counters():
    assert len({derive_key(1, 2), derive_key(2, 1), derive_key(1, 2, 0), derive_key(3), derive_key(-3)}) == 5
