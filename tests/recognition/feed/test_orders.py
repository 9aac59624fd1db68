import numpy as np
import pytest

from recognition.feed.orders import WINDOW_BLOCKS, IdentityOrder, ImageOrder
from recognition.feed.sampler import GlobalBatchSampler


def whole(order, epoch, num_images):
    return order.epoch(epoch)(np.arange(num_images))


@pytest.mark.parametrize("block", [1, 2, 7, 16, 1000])
@pytest.mark.parametrize("num_images", [1, 5, 63, 1000, 10_007])
def test_every_image_stands_at_exactly_one_position(num_images, block):
    order = ImageOrder(num_images, 1, block=block)
    for epoch in range(3):
        assert np.array_equal(np.sort(whole(order, epoch, num_images)), np.arange(num_images))


def test_shuffled_blocks_keep_a_batch_within_one_window_of_neighbors():
    num_images, block = 1_000_000, 100
    order = ImageOrder(num_images, 3, block=block)
    images = order.epoch(0)(np.arange(512))
    # Every block is a run of neighbors: as many distinct blocks as a window has, in a million images.
    runs = np.unique((images - images.min()) // block)
    assert WINDOW_BLOCKS * 0.9 < len(runs) <= 2 * WINDOW_BLOCKS
    assert len(np.unique(images)) == 512
    assert abs(np.corrcoef(images[:-1], images[1:])[0, 1]) < 0.15


def test_what_is_read_ahead_is_what_is_read():
    num_images, block = 100_000, 50
    epoch = ImageOrder(num_images, 3, block=block).epoch(4)
    window = WINDOW_BLOCKS * block
    for start in (0, window, 5 * window):
        ahead = np.concatenate([np.arange(span.start, span.stop) for span in epoch.about_to_read(start)])
        read = epoch(np.arange(start, start + window))
        assert len(np.setdiff1d(read, ahead)) <= block  # a block that wraps round the end of the set


def test_blocks_differ_between_epochs_and_seeds():
    orders = [whole(ImageOrder(9000, seed, block=10), epoch, 9000) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i, one in enumerate(orders):
        for other in orders[:i]:
            assert (one == other).mean() < 0.01


def test_the_cuts_between_blocks_move_every_epoch():
    num_images, block = 9000, 10
    cuts = []
    for epoch in range(12):
        window = set(ImageOrder(num_images, 0, block=block).epoch(epoch)(np.arange(WINDOW_BLOCKS * block)).tolist())
        # Whole blocks: where a run of neighbors begins there is a cut, and all cuts of an epoch lie alike.
        begins = {image % block for image in window if (image - 1) % num_images not in window}
        assert len(begins) == 1
        cuts += begins
    # Of 12 uniform draws from 10 fewer than 5 are different for one seed in 300.
    assert len(set(cuts)) >= 5


@pytest.mark.parametrize("block", [1, 10])
def test_any_order_is_the_same_for_every_number_of_ranks(block):
    def batches(world_size):
        ranks = [
            GlobalBatchSampler(
                1003,
                seed=3,
                batch_size=12 // world_size,
                rank=rank,
                world_size=world_size,
                epoch=2,
                order=ImageOrder(1003, 3, block=block),
            )
            for rank in range(world_size)
        ]
        return np.array([np.concatenate(parts) for parts in zip(*ranks, strict=True)])

    assert all(np.array_equal(batches(world_size), batches(1)) for world_size in (2, 3, 4))


def labels_of_sizes(sizes, seed=0):
    labels = np.repeat(np.arange(len(sizes)) * 3, sizes)  # ids with gaps
    return np.random.default_rng(seed).permutation(labels)


def test_batches_hold_p_identities_of_k_images():
    labels = labels_of_sizes([5, 9, 4, 30, 12, 7, 4, 4, 25, 6])
    order = IdentityOrder(labels, 1, per_identity=4)
    for batch in GlobalBatchSampler(len(labels), seed=1, batch_size=20, order=order):
        groups = labels[batch].reshape(5, 4)
        assert (groups == groups[:, :1]).all()
        assert len(np.unique(groups[:, 0])) == 5
        assert len(np.unique(batch)) == 20


def test_all_identities_come_before_any_comes_again():
    labels = labels_of_sizes([5, 9, 4, 30, 12, 7, 4, 4, 25, 6])
    persons = labels[whole(IdentityOrder(labels, 1, per_identity=4), 0, 80)][::4]
    assert set(persons[:10]) == set(persons[10:]) == set(labels)
    assert list(persons[:10]) != list(persons[10:])


def test_identities_with_few_images_show_them_again():
    labels = labels_of_sizes([1, 2, 3])
    images = whole(IdentityOrder(labels, 1, per_identity=3), 0, 9).reshape(3, 3)
    assert sorted(len(np.unique(group)) for group in images) == [1, 2, 3]


def test_identity_order_is_a_function_of_seed_and_epoch_and_can_start_anywhere():
    labels = labels_of_sizes([40] * 30)
    one = whole(IdentityOrder(labels, 1, per_identity=4), 2, 1200)
    assert np.array_equal(one[600:], IdentityOrder(labels, 1, per_identity=4).epoch(2)(np.arange(600, 1200)))
    for seed, epoch in ((1, 3), (2, 2)):
        assert (one == whole(IdentityOrder(labels, seed, per_identity=4), epoch, 1200)).mean() < 0.02
    seen = np.concatenate([whole(IdentityOrder(labels, 1, per_identity=4), epoch, 1200) for epoch in range(12)])
    assert len(np.unique(seen)) > 1190
