import dataclasses
import itertools
from typing import get_args, get_type_hints

import cv2
import numpy as np
import pytest
import torch

from recognition.config.schema import AugmentConfig
from recognition.draws.hashing import derive_key
from recognition.images import augment
from recognition.images.augment import AUGMENTATIONS, PRESETS, Augmenter, Recipe, flip_mask, recipe
from recognition.images.operation import STREAMS_EACH, Draws, streams_of, uniform, uniform_rows


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


def only(**probabilities: float) -> Recipe:
    return recipe(AugmentConfig(**probabilities))


EVERYTHING = only(**dict.fromkeys(AUGMENTATIONS, 0.5))


def faces(n, size=32):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    return torch.from_numpy(np.stack([cv2.resize(image, (size, size)) for image in coarse]))


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_each_operation_happens_as_often_as_it_is_asked_to(name):
    images, indices = faces(400), torch.arange(400)
    augmented = Augmenter(only(**{name: 0.3}), seed=1)(images, indices, 0)
    changed = (augmented != images).flatten(1).any(1).float().mean().item()
    assert 0.2 < changed < 0.38
    assert torch.equal(Augmenter(only(**{name: 0.0}), seed=1)(images, indices, 0), images)


@pytest.mark.parametrize("preset", [*PRESETS, "everything"])
def test_augmentation_depends_on_the_image_and_not_on_its_batch(preset):
    images, indices = faces(64), torch.randperm(10_000)[:64]
    augment = Augmenter(EVERYTHING if preset == "everything" else recipe(AugmentConfig(preset=preset)), seed=3)
    before = images.clone()
    whole = augment(images, indices, 5)
    assert torch.equal(images, before)
    assert (whole.shape, whole.dtype) == (images.shape, torch.uint8)
    parts = [augment(*part, 5) for part in zip(images.split([1, 20, 43]), indices.split([1, 20, 43]), strict=True)]
    assert torch.equal(torch.cat(parts), whole)
    order = torch.randperm(64)
    assert torch.equal(augment(images[order], indices[order], 5), whole[order])


def test_no_two_draws_for_an_image_share_a_stream():
    streams = Augmenter(EVERYTHING, seed=3).streams
    # The flip's, and for each operation at least the one that says whether it happens.
    assert len(streams) > len(list(AUGMENTATIONS))
    assert len({1, *streams}) == len(streams) + 1
    for name in AUGMENTATIONS:
        first = AUGMENTATIONS[name].stream
        own = streams_of(AUGMENTATIONS[name]())
        assert own == list(range(first + 1, first + 1 + len(own)))
        assert len(own) < STREAMS_EACH


def test_draws_at_once_are_those_drawn_one_by_one(monkeypatch):
    """Each operation gets the rows of its own streams, whatever else is drawn with them."""
    seen = {}

    def noting(planes, chosen, operation, parameters):
        seen[operation.stream] = (chosen, parameters)
        return planes

    monkeypatch.setattr(augment, "_where_chosen", noting)
    indices = torch.arange(90, 98)
    augmenter = Augmenter(EVERYTHING, seed=3)
    for epoch in (0, 4, 0):
        augmenter(faces(8), indices, epoch)
        for name in AUGMENTATIONS:
            operation = AUGMENTATIONS[name]()
            rows = iter([uniform(3, epoch, indices, stream) for stream in streams_of(operation)])
            chosen, parameters = seen[operation.stream]
            assert torch.equal(chosen, next(rows) < 0.5)
            for found, expected in zip(parameters, operation.parameters(Draws(rows)), strict=True):
                assert torch.equal(found, expected)


def test_operations_choose_their_images_independently():
    images, indices = faces(400, 16), torch.arange(400)
    masks = {}
    for name in ("crop", "color", "occlusion", "gray"):
        augmented = Augmenter(recipe(AugmentConfig(**{name: 0.5})), seed=1)(images, indices, 0)
        masks[name] = (augmented != images).flatten(1).any(1).float()
    together = torch.corrcoef(torch.stack(list(masks.values())))
    # The deviation of a correlation of 400 independent draws is 1 / 20; one stream for both would give 1.
    assert (together - torch.eye(4)).abs().max() < 0.25


def test_augmentation_changes_with_seed_and_epoch():
    images, indices = faces(64), torch.arange(64)
    results = [Augmenter(EVERYTHING, seed)(images, indices, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for i, one in enumerate(results):
        for other in results[:i]:
            assert (one != other).flatten(1).any(1).float().mean() > 0.9


def test_stated_probabilities_replace_the_presets():
    stated = recipe(AugmentConfig(preset="adaface", crop=0.0, mask=0.1))
    assert [stated[name].probability for name in ("crop", "mask", "color", "jpeg")] == [0.0, 0.1, 0.2, 0.0]
    dali = recipe(AugmentConfig(preset="arcface_dali", blur=0.9))["blur"]
    assert (dali.probability, dali.operation.sigma) == (0.9, (0.8, 1.1))
    assert not any(chance.probability for chance in recipe(AugmentConfig()).values())


def test_config_and_registry_name_the_same_operations_and_presets():
    fields = [field.name for field in dataclasses.fields(AugmentConfig)]
    assert fields == ["preset", *AUGMENTATIONS]
    assert set(get_args(get_type_hints(AugmentConfig)["preset"])) == set(PRESETS)


def test_no_two_operations_share_a_random_stream():
    begins = sorted(AUGMENTATIONS[name].stream for name in AUGMENTATIONS)
    assert begins[0] >= STREAMS_EACH, "those before are the flip's"
    assert all(later - earlier >= STREAMS_EACH for earlier, later in itertools.pairwise(begins))


def test_whether_one_operation_happens_tells_nothing_of_another():
    images, indices = faces(400), torch.arange(400)
    happened = [
        (Augmenter(only(**{name: 0.5}), seed=1)(images, indices, 0) != images).flatten(1).any(1).float()
        for name in AUGMENTATIONS
    ]
    correlations = torch.corrcoef(torch.stack(happened)) - torch.eye(len(happened))
    assert correlations.abs().max() < 0.2, "four deviations of 1 / sqrt(400)"


def test_draws_are_those_that_earlier_runs_were_made_with():
    """24-bit integers, equal on every machine: a run that is resumed sees the pictures that it would have seen."""
    expected = {
        "crop": [1392535, 6931610, 3519824],
        "misalign": [319101, 7762838, 14889986],
        "shift": [12538293, 12201593, 13686441],
        "low_resolution": [1866764, 2870496, 11000411],
        "blur": [15251650, 15425546, 14560124],
        "color": [3758938, 9872440, 5552229],
        "gray": [16460302, 390037, 8670293],
        "occlusion": [16694230, 1455349, 7244229],
        "mask": [2370294, 793444, 532921],
        "jpeg": [651191, 5896963, 15367973],
    }
    for name, numbers in expected.items():
        keys = torch.tensor([derive_key(7, 3, stream) for stream in streams_of(AUGMENTATIONS[name]())])
        drawn = uniform_rows(torch.arange(1000, 1003), keys)[0]
        assert [int(value) for value in (drawn * (1 << 24))] == numbers, name


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_and_cpu_agree():
    images, indices = faces(64, 112), torch.arange(64)
    augment = Augmenter(EVERYTHING, seed=3)
    on_cpu, on_cuda = augment(images, indices, 1), augment(images.cuda(), indices.cuda(), 1).cpu()
    assert (on_cpu.int() - on_cuda.int()).abs().float().mean() < 0.05
