import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.config.schema import Config, DataConfig, TrainConfig
from recognition.distributed.world import World
from recognition.feed.build import build_loader, build_order
from recognition.feed.datasets import open_dataset
from recognition.feed.loader_size import choose_workers, starvation_advice

DATA = DataConfig("synthetic", num_classes=10, num_image=200, image_size=16, num_workers=0)


def batches(**data):
    config = Config(data=dataclasses.replace(DATA, **data), train=TrainConfig(batch_size=20))
    loader = build_loader(config, open_dataset(config.data), World(0, 1, 0, torch.device("cpu")), Path())
    result = list(loader.epoch(0))
    loader.close()
    return result


def test_batches_of_p_by_k_images_reach_the_trainer():
    for batch in batches(images_per_identity=4):
        groups = batch.labels.view(5, 4)
        assert (groups == groups[:, :1]).all()
        assert len(set(groups[:, 0].tolist())) == 5


def test_shuffled_blocks_reach_the_trainer_whole_and_once():
    for num_workers in (0, 2):
        seen = torch.cat([batch.indices for batch in batches(shuffle_block=5, num_workers=num_workers)])
        assert np.array_equal(np.sort(seen.numpy()), np.arange(200))


def test_threads_fill_the_same_batches():
    for one, other in zip(batches(), batches(num_threads=3), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


def test_the_default_order_is_a_uniform_shuffle():
    config = Config(data=DATA)
    order = build_order(config, open_dataset(DATA)).epoch(0)
    assert np.array_equal(np.sort(order(np.arange(200))), np.arange(200))
    assert order.about_to_read(0) == []


@pytest.mark.parametrize(
    ("stated", "cores", "ranks", "on_gpu", "expected"),
    [
        (3, 96, 8, True, 3),
        (0, 96, 8, True, 0),
        (None, 96, 8, True, 8),
        (None, 16, 4, True, 3),
        (None, 2, 2, True, 1),
        (None, 64, 1, False, 1),
    ],
)
def test_workers_are_chosen_from_the_cores_of_a_rank(stated, cores, ranks, on_gpu, expected):
    assert choose_workers(stated, cores=cores, ranks_here=ranks, on_gpu=on_gpu) == expected


@pytest.mark.parametrize(
    ("wait_share", "rate", "workers", "cores", "expected"),
    [
        (0.05, 6000, 2, 16, None),
        (0.4, 9000, 1, 16, "the device waits for data 40% of the time; raise data.num_workers from 1 to 4"),
        (0.4, 9000, 2, 2, "all 2 cores decode; store smaller images or use a machine with more cores"),
        (0.5, 500, 2, 2, "decoding is not what takes it; use a faster disk, or set data.shuffle_block: 256"),
    ],
)
def test_a_starving_device_is_told_what_to_raise(wait_share, rate, workers, cores, expected):
    advice = starvation_advice(wait_share, rate, num_workers=workers, num_threads=1, cores=cores, ranks_here=1)
    assert advice is None if expected is None else advice.endswith(expected)
