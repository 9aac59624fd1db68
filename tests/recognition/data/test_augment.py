import torch

from recognition.data.augment import flip_mask, uniform


def test_flips_depend_on_the_image_and_not_on_its_batch():
    indices = torch.randperm(1000)
    whole = flip_mask(1, 2, indices, 0.5)
    parts = torch.cat([flip_mask(1, 2, part, 0.5) for part in indices.split([1, 7, 300, 692])])
    assert torch.equal(whole, parts)
    assert whole[indices == 17].item() == flip_mask(1, 2, torch.tensor([17]), 0.5).item()


def test_flips_change_with_seed_and_epoch():
    indices = torch.arange(4000)
    masks = [flip_mask(seed, epoch, indices, 0.5) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i, one in enumerate(masks):
        assert 0.47 < one.float().mean() < 0.53
        for other in masks[:i]:
            assert 0.47 < (one == other).float().mean() < 0.53


def test_probability_is_kept_and_its_ends_are_exact():
    indices = torch.arange(100_000)
    assert abs(flip_mask(5, 0, indices, 0.2).float().mean() - 0.2) < 0.005
    assert not flip_mask(5, 0, indices, 0.0).any()
    assert flip_mask(5, 0, indices, 1.0).all()


def test_streams_are_independent_and_uniform():
    indices = torch.arange(100_000)
    one, other = uniform(0, 0, indices, 1), uniform(0, 0, indices, 2)
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].abs() < 0.01
    counts = torch.histc(one, 50, 0, 1)
    assert ((counts - 2000) ** 2 / 2000).sum() < 49 + 4 * (2 * 49) ** 0.5
    assert one.min() >= 0
    assert one.max() < 1
