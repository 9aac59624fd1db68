import os
import signal
import time

import numpy as np
import pytest
import torch

from recognition.config.schema import DataConfig
from recognition.distributed.world import World
from recognition.errors import DataError
from recognition.feed import workers
from recognition.feed.datasets import SyntheticDataset, open_dataset
from recognition.feed.loader import BatchLoader
from tests.helpers.sets import SIZE, picture, png, write_rec
from tests.helpers.slow_set import Slow

CPU = torch.device("cpu")


def open_loader(dataset, *, batch_size=4, rank=0, size=1, num_workers=0, seed=1):
    world = World(rank, size, rank, CPU)
    return BatchLoader(dataset, seed=seed, batch_size=batch_size, world=world, num_workers=num_workers, device=CPU)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_hold_the_images_of_their_indices(num_workers):
    dataset = SyntheticDataset(41, 7, SIZE)
    loader = open_loader(dataset, num_workers=num_workers)
    assert loader.steps_per_epoch == 10
    seen = []
    for batch in loader.epoch(0):
        assert batch.images.shape == (4, SIZE, SIZE, 3)
        assert (batch.images.dtype, batch.labels.dtype, batch.indices.dtype) == (torch.uint8, torch.int64, torch.int64)
        for image, label, index in zip(*batch[:3], strict=True):
            expected, expected_label = dataset[int(index)]
            assert np.array_equal(image.numpy(), expected)
            assert label == expected_label
        seen += batch.indices.tolist()
    assert len(set(seen)) == 40


def test_order_is_the_same_for_any_number_of_workers_and_ranks():
    dataset = SyntheticDataset(50, 5, SIZE)
    whole = [batch.indices for batch in open_loader(dataset, batch_size=6).epoch(3)]
    with_workers = [batch.indices for batch in open_loader(dataset, batch_size=6, num_workers=2).epoch(3)]
    ranks = [open_loader(dataset, batch_size=2, rank=rank, size=3).epoch(3) for rank in range(3)]
    over_ranks = [torch.cat([batch.indices for batch in parts]) for parts in zip(*ranks, strict=True)]
    assert torch.equal(torch.stack(whole), torch.stack(with_workers))
    assert torch.equal(torch.stack(whole), torch.stack(over_ranks))


def test_workers_live_across_epochs_and_an_epoch_may_be_left_early():
    loader = open_loader(Slow(), num_workers=2)
    first = next(loader.epoch(0))
    rest = list(loader.epoch(1, start_step=14))
    again = next(loader.epoch(0))
    assert len(rest) == 2
    assert torch.equal(first.indices, again.indices)
    assert set(first.labels.tolist()) == set(again.labels.tolist())
    assert os.getpid() not in first.labels


def test_starting_in_the_middle_continues_the_same_batches():
    dataset = SyntheticDataset(50, 5, SIZE)
    loader = open_loader(dataset)
    whole = list(loader.epoch(2))
    rest = list(loader.epoch(2, start_step=9))
    assert len(rest) == 3
    for one, other in zip(whole[9:], rest, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_damaged_image_reaches_the_consumer_as_one_line(tmp_path, num_workers):
    write_rec(tmp_path / "train", [(0, png(picture(i)) if i != 5 else b"\xff\xd8junk") for i in range(12)])
    (tmp_path / "property").write_text(f"1,{SIZE},{SIZE}\n")
    dataset = open_dataset(DataConfig(rec=str(tmp_path), image_size=SIZE))
    loader = open_loader(dataset, num_workers=num_workers)
    with pytest.raises(DataError, match=r"^\S+train\.rec: record 5 at offset \d+: the image .*$") as caught:
        list(loader.epoch(0))
    assert "\n" not in str(caught.value)


def test_killed_worker_ends_the_epoch_with_an_error():
    loader = open_loader(Slow(delay_s=0.02), num_workers=1)
    batches = loader.epoch(0)
    os.kill(int(next(batches).labels[0]), signal.SIGKILL)
    with pytest.raises(DataError, match=r"loader worker 0: ended with status (-9|255) before its batch was ready;"):
        list(batches)


@pytest.mark.slow
def test_stuck_worker_ends_the_epoch_with_an_error(monkeypatch):
    monkeypatch.setattr(workers, "TIMEOUT_S", 2.0)
    loader = open_loader(Slow(stuck_at=0), num_workers=1)
    with pytest.raises(DataError, match=r"loader worker 0: no batch in 2 s; expected one; look for a stalled disk"):
        list(loader.epoch(0))


def test_workers_end_with_their_loader():
    loader = open_loader(Slow(), num_workers=1)
    pid = int(next(loader.epoch(0)).labels[0])
    del loader
    assert not os.path.exists(f"/proc/{pid}")


def test_time_spent_waiting_is_counted_and_time_spent_elsewhere_is_not():
    loader = open_loader(Slow(delay_s=0.01), batch_size=8)
    for _ in loader.epoch(0):
        time.sleep(0.05)
    assert 8 * 0.08 <= loader.wait_s < 8 * 0.08 + 0.3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_arrive_whole_on_cuda_while_it_computes(num_workers):
    dataset = SyntheticDataset(400, 7, SIZE)
    cuda = torch.device("cuda", torch.cuda.current_device())
    world = World(0, 1, 0, cuda)
    loader = BatchLoader(dataset, seed=1, batch_size=16, world=world, num_workers=num_workers, device=cuda)
    expected = list(open_loader(dataset, batch_size=16).epoch(0))
    for _ in range(2):
        busy = torch.ones(2000, 2000, device=cuda)
        sums = []
        for batch in loader.epoch(0):
            assert batch.images.is_cuda
            busy = busy @ busy / 2000
            sums.append((batch.images.long().sum(), batch.labels.clone(), batch.indices.clone()))
        for (total, labels, indices), batch in zip(sums, expected, strict=True):
            assert total.item() == batch.images.long().sum().item()
            assert torch.equal(labels.cpu(), batch.labels)
            assert torch.equal(indices.cpu(), batch.indices)
    loader.close()
