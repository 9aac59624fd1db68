import numpy as np
import pytest

from recognition.errors import ConfigError
from recognition.feed.sampler import GlobalBatchSampler


def global_batches(world_size, *, num_images=1003, global_batch=12, **position):
    ranks = [
        GlobalBatchSampler(
            num_images, seed=3, batch_size=global_batch // world_size, rank=rank, world_size=world_size, **position
        )
        for rank in range(world_size)
    ]
    return np.array([np.concatenate(parts) for parts in zip(*ranks, strict=True)])


@pytest.mark.parametrize("world_size", [2, 3, 4, 6, 12])
def test_global_batches_do_not_depend_on_the_number_of_ranks(world_size):
    assert np.array_equal(global_batches(world_size, epoch=2), global_batches(1, epoch=2))


def test_an_epoch_shows_every_image_once_but_for_the_last_part_batch():
    seen = global_batches(3).ravel()
    assert len(seen) == 1003 // 12 * 12
    assert len(np.unique(seen)) == len(seen)
    assert set(seen) <= set(range(1003))
    assert len(np.unique(global_batches(3, num_images=996).ravel())) == 996


def test_images_left_out_change_with_the_epoch():
    left_out = [set(range(1003)) - set(global_batches(1, epoch=epoch).ravel()) for epoch in range(4)]
    assert len(set.union(*left_out)) > 20


def test_starting_in_the_middle_continues_the_same_order():
    assert np.array_equal(global_batches(4, epoch=1, start_step=50), global_batches(4, epoch=1)[50:])


def test_resuming_on_another_number_of_ranks_continues_the_same_order():
    assert np.array_equal(global_batches(2, start_step=10), global_batches(6)[10:])


def test_epochs_and_seeds_give_other_orders():
    first = list(GlobalBatchSampler(100, seed=0, batch_size=50))
    assert not np.array_equal(first, list(GlobalBatchSampler(100, seed=0, batch_size=50, epoch=1)))
    assert not np.array_equal(first, list(GlobalBatchSampler(100, seed=1, batch_size=50)))


def test_length_counts_the_steps_that_are_left():
    sampler = GlobalBatchSampler(100, seed=0, batch_size=10)
    assert (sampler.steps_per_epoch, len(sampler)) == (10, 10)
    sampler.start_at(4, 7)
    assert (sampler.steps_per_epoch, len(sampler), len(list(sampler))) == (10, 3, 3)
    sampler.start_at(4, 10)
    assert list(sampler) == []


def test_too_few_images_for_one_batch_is_an_error():
    with pytest.raises(ConfigError, match=r"10 images cannot fill one global batch of 12 \(6 x 2 ranks\); lower train"):
        GlobalBatchSampler(10, seed=0, batch_size=6, world_size=2)
