"""A record that cannot be read is replaced the same way everywhere, listed once, and too many end the run."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.config.schema import DataConfig
from recognition.distributed.world import World
from recognition.draws.hashing import derive_key
from recognition.errors import DataError
from recognition.feed.bad_records import BadRecord, BadRecordList, Origin, Replacements
from recognition.feed.datasets import FolderDataset, open_dataset
from recognition.feed.loader import BatchLoader
from recognition.feed.orders import ImageOrder
from tests.helpers.failing_disk import FailingDisk
from tests.helpers.sets import SIZE, picture, png, write_rec
from tests.helpers.slow_set import Slow

BAD = (5, 11, 12, 20)
NUM_IMAGES = 24


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    images = [png(picture(9 * i)) if i not in BAD else b"\xff\xd8junk" for i in range(NUM_IMAGES)]
    write_rec(tmp_path / "train", [(i % 3, image) for i, image in enumerate(images)])
    (tmp_path / "property").write_text(f"3,{SIZE},{SIZE}\n")
    return tmp_path


def loader(
    folder: Path,
    *,
    rank: int = 0,
    size: int = 1,
    workers: int = 0,
    threads: int = 1,
    budget: int = 10,
    name: str = "bad_records.jsonl",
    each: int = 4,
) -> BatchLoader:
    dataset = open_dataset(DataConfig(rec=str(folder), image_size=SIZE))
    return BatchLoader(
        dataset,
        seed=3,
        batch_size=each,
        world=World(rank, size, rank, torch.device("cpu")),
        num_workers=workers,
        num_threads=threads,
        device=torch.device("cpu"),
        bad_records=BadRecordList(folder / name, budget=budget),
    )


def expected_images(epoch: int) -> list[int]:
    """The slow way: every position of the order by itself, with candidates drawn until one is good."""
    order = ImageOrder(NUM_IMAGES, 3).epoch(epoch)(np.arange(NUM_IMAGES)).tolist()
    shown = []
    for position, image in enumerate(order):
        for number in itertools.count():
            if image not in BAD:
                break
            image = derive_key(3, epoch, 0x6BAD, position, number) % NUM_IMAGES
        shown.append(image)
    return shown


def listed(folder: Path, name: str = "bad_records.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


@pytest.mark.parametrize(("workers", "threads"), [(0, 1), (0, 3), (2, 1)])
def test_batches_hold_the_same_replacements_for_any_number_of_workers(packed: Path, workers: int, threads: int) -> None:
    source = loader(packed, workers=workers, threads=threads)
    for epoch in (0, 1):
        batches = list(source.epoch(epoch))
        shown = torch.cat([batch.indices for batch in batches]).tolist()
        assert shown == expected_images(epoch)
        for image, label, index in zip(
            *(torch.cat(part) for part in zip(*(batch[:3] for batch in batches))), strict=True
        ):
            assert np.array_equal(image.numpy(), picture(9 * int(index)))
            assert label == index % 3
        rest = torch.cat([batch.indices for batch in source.epoch(epoch, start_step=2)]).tolist()
        assert rest == shown[8:], "resumed in the middle of the epoch"
    source.close()


def test_ranks_show_together_what_one_shows_alone(packed: Path) -> None:
    parts = [list(loader(packed, rank=rank, size=2, each=2).epoch(4)) for rank in range(2)]
    together = [index for pair in zip(*parts) for batch in pair for index in batch.indices.tolist()]
    assert together == expected_images(4)


@pytest.mark.parametrize("workers", [0, 2])
def test_each_record_is_listed_once_with_its_origin(
    packed: Path, workers: int, caplog: pytest.LogCaptureFixture
) -> None:
    source = loader(packed, workers=workers)
    assert source.num_bad_records == 0
    for epoch in (0, 1, 2):
        list(source.epoch(epoch))
    assert source.num_bad_records == len(BAD)
    rows = sorted(listed(packed), key=lambda row: row["record"])
    assert [row["record"] for row in rows] == list(BAD)
    assert [row["key"] for row in rows] == list(BAD)
    for row in rows:
        assert row["file"] == str(packed / "train.rec")
        assert row["error"].startswith(f"{packed}/train.rec: record {row['key']} at offset ")
        assert caplog.text.count(row["error"]) == 1
    again = loader(packed)  # a restart
    list(again.epoch(0))
    assert again.num_bad_records == len(BAD)
    assert len(listed(packed)) == len(BAD)
    source.close()


@pytest.mark.parametrize("workers", [0, 2])
def test_over_the_budget_the_run_ends_with_one_error(packed: Path, workers: int) -> None:
    source = loader(packed, workers=workers, budget=3)
    with pytest.raises(DataError, match=r"lists 4 records that cannot be read; expected at most data\.max_bad_record"):
        list(source.epoch(0))
    assert len(listed(packed)) == 4, "the one too many is listed as well"
    source.close()


def test_the_budget_is_one_for_all_ranks(packed: Path) -> None:
    ranks = [loader(packed, rank=rank, size=2, each=2, budget=3) for rank in range(2)]
    with pytest.raises(DataError, match=r"expected at most data\.max_bad_records=3"):
        for _ in zip(*(rank.epoch(0) for rank in ranks)):
            pass
    assert all(rank.num_bad_records == 4 for rank in ranks)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_rotten_set_ends_without_searching_for_ever(packed: Path, workers: int) -> None:
    (packed / "train.rec").write_bytes((packed / "train.rec").read_bytes().replace(b"\x89PNG", b"nope"))
    source = loader(packed, workers=workers, budget=1000)
    with pytest.raises(DataError, match=r"^16 records in a row cannot be read, the last one: .*not an image"):
        list(source.epoch(0))
    source.close()


def test_a_picture_that_vanishes_from_its_folder_is_replaced(tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / "faces" / f"p{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(png(picture(number)))
    dataset = FolderDataset(tmp_path / "faces", SIZE)
    (tmp_path / "faces" / "p1" / "3.png").unlink()
    source = BatchLoader(
        dataset,
        seed=0,
        batch_size=4,
        world=World(0, 1, 0, torch.device("cpu")),
        num_workers=0,
        device=torch.device("cpu"),
        bad_records=BadRecordList(tmp_path / "bad.jsonl", budget=1),
    )
    assert 5 not in torch.cat([batch.indices for batch in source.epoch(0)])
    (row,) = listed(tmp_path, "bad.jsonl")
    assert (row["file"], row["record"], row["key"]) == (str(tmp_path / "faces"), 5, "p1/3.png")
    assert "cannot be read (No such file" in row["error"]


def test_a_killed_worker_is_an_error_and_no_bad_record(tmp_path: Path) -> None:
    source = BatchLoader(
        Slow(delay_s=0.02),
        seed=1,
        batch_size=4,
        world=World(0, 1, 0, torch.device("cpu")),
        num_workers=1,  # type: ignore[arg-type]
        device=torch.device("cpu"),
        bad_records=BadRecordList(tmp_path / "bad.jsonl", budget=100),
    )
    batches = source.epoch(0)
    os.kill(int(next(batches).labels[0]), signal.SIGKILL)
    with pytest.raises(DataError, match=r"loader worker 0: ended with status (-9|255) before its batch was ready;"):
        list(batches)
    assert not (tmp_path / "bad.jsonl").exists()


def test_lists_of_several_ranks_are_one(tmp_path: Path) -> None:
    first, second = (BadRecordList(tmp_path / "bad.jsonl", budget=9) for _ in range(2))
    first.add([BadRecord("a", 1, 1, "torn"), BadRecord("a", 2, "x", "torn")])
    assert len(second) == 2
    second.add([BadRecord("a", 2, "x", "torn"), BadRecord("b", 2, 2, "torn")])
    assert len(first) == 3
    assert [(row["file"], row["record"]) for row in listed(tmp_path, "bad.jsonl")] == [("a", 1), ("a", 2), ("b", 2)]


@pytest.mark.parametrize(
    "tail", [b'{"file": "a", "rec', b"[" * 5000, b'{"file": 1}\n', b'{"record": 1e999}\n', b"\xff\n"]
)
def test_a_damaged_line_counts_for_nothing(tmp_path: Path, tail: bytes) -> None:
    (tmp_path / "bad.jsonl").write_bytes(b'{"file": "a", "record": 1}\n' + tail)
    bad = BadRecordList(tmp_path / "bad.jsonl", budget=9)
    bad.add([BadRecord("a", 2, 2, "torn")])
    assert len(bad) == 2
    assert json.loads((tmp_path / "bad.jsonl").read_bytes().splitlines()[-1])["record"] == 2
    assert len(BadRecordList(tmp_path / "bad.jsonl", budget=9)) == 2


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
def test_a_list_that_cannot_be_written_waits_for_room(
    error: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bad = BadRecordList(tmp_path / "bad.jsonl", budget=3)
    bad.add([BadRecord("a", 1, 1, "torn")])
    disk = FailingDisk(tmp_path, error)
    with disk.mounted():
        disk.fails = True
        for number in (2, 3):
            bad.add([BadRecord("a", number, number, "torn")])
        assert len(bad) == 3
    assert caplog.text.count("bad.jsonl: cannot be written") == 1, "warned once"
    bad.add([BadRecord("a", 3, 3, "torn")])
    lines = (tmp_path / "bad.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["record"] for line in lines] == [1, 2, 3]
    disk.fails, disk.fails_at = False, disk.num_changes + 2  # the sync after the write
    with disk.mounted(), pytest.raises(DataError, match="lists 4 records"):
        bad.add([BadRecord("a", 4, 4, "torn")])
    assert (tmp_path / "bad.jsonl").read_bytes().endswith(b"\n")


def test_replacements_are_spread_over_the_set() -> None:
    replacements = Replacements(1, 10, lambda index: Origin("a", index, index))
    drawn = [next(replacements(epoch, position)) for epoch in range(10) for position in range(100)]
    counts = np.bincount(drawn, minlength=10)
    assert counts.min() > 60 and counts.max() < 140
