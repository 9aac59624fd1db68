from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from recognition.errors import DataError
from recognition.formats import index_cache, layout_insightface, record_index
from recognition.formats.records import ImageRecords
from tests.helpers.places import MXNET_GOLDEN


@pytest.fixture(autouse=True)
def _cache_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "MIN_IDX_BYTES", 0)


def _copy(tmp_path: Path, name: str = "insightface") -> Path:
    for suffix in (".rec", ".idx"):
        (tmp_path / f"train{suffix}").write_bytes((MXNET_GOLDEN / f"{name}{suffix}").read_bytes())
    return tmp_path / "train.rec"


def _content(records: ImageRecords) -> list:
    images = [records.read(i) for i in range(len(records))]
    return [*images, records.layout, records.num_classes, records.num_identities]


def _uncached(name: str) -> list:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(index_cache, "MIN_IDX_BYTES", 10**6)
        return _content(ImageRecords(MXNET_GOLDEN / f"{name}.rec"))


@pytest.mark.parametrize("name", ["insightface", "im2rec_scalar", "im2rec_labels"])
def test_second_opening_reads_the_cache_and_finds_the_same(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _uncached(name)
    rec = _copy(tmp_path, name)
    assert _content(ImageRecords(rec)) == expected
    assert (tmp_path / "train.idx.cache").stat().st_size == 4096 + 16 * (len(ImageRecords(rec).index) + 1)
    monkeypatch.setattr(index_cache, "parse_index_blocks", None)
    monkeypatch.setattr(index_cache, "load_index", None)
    assert _content(ImageRecords(rec)) == expected


def test_small_indexes_leave_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index_cache, "MIN_IDX_BYTES", 10**6)
    ImageRecords(_copy(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.idx", "train.rec"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda cache, idx: os.utime(idx, ns=(1, 1)),
        lambda cache, idx: cache.write_bytes(b""),
        lambda cache, idx: cache.write_bytes(cache.read_bytes()[:5000]),
        lambda cache, idx: cache.write_bytes(b"[]".ljust(4096) + cache.read_bytes()[4096:]),
        lambda cache, idx: cache.write_bytes(cache.read_bytes().replace(b'"format": 1', b'"format": 9')),
        lambda cache, idx: cache.write_bytes(cache.read_bytes()[:4096]),
    ],
)
def test_stale_or_damaged_cache_is_rebuilt(tmp_path: Path, damage) -> None:
    rec = _copy(tmp_path)
    expected = _content(ImageRecords(rec))
    cache, idx = tmp_path / "train.idx.cache", tmp_path / "train.idx"
    whole = cache.read_bytes()
    damage(cache, idx)
    assert _content(ImageRecords(rec)) == expected
    assert len(cache.read_bytes()) == len(whole)
    assert cache.read_bytes()[4096:] == whole[4096:]


def test_another_index_of_the_same_size_is_noticed(tmp_path: Path) -> None:
    rec = _copy(tmp_path, "im2rec_scalar")
    ImageRecords(rec)
    idx = tmp_path / "train.idx"
    lines = idx.read_text().splitlines()
    first, second = lines[0].split("\t"), lines[1].split("\t")
    # Keys swapped: the text stays as long as it was.
    idx.write_text("\n".join([f"{second[0]}\t{first[1]}", f"{first[0]}\t{second[1]}", *lines[2:]]) + "\n")
    assert ImageRecords(rec).key(0) == int(second[0])


def test_images_among_other_records_are_found_each_time(tmp_path: Path) -> None:
    rec = _copy(tmp_path)
    records = ImageRecords(rec)
    lines = (tmp_path / "train.idx").read_text().splitlines()
    keys = [int(line.split("\t")[0]) for line in lines]
    # A record of another kind between the images: identity records moved to the front of the file.
    with open(rec, "rb") as handle:
        content = handle.read()
    bounds = [*records.index.bounds.tolist()]
    chunks = [content[start:stop] for start, stop in itertools.pairwise(bounds)]
    order = [0, len(chunks) - 2, *range(1, len(chunks) - 2), len(chunks) - 1]
    offsets = np.cumsum([0] + [len(chunks[at]) for at in order])
    rec.write_bytes(b"".join(chunks[at] for at in order))
    (tmp_path / "train.idx").write_text("".join(f"{keys[at]}\t{offset}\n" for at, offset in zip(order, offsets)))
    expected = [record for record in _uncached("insightface") if not isinstance(record, (str, int))]
    for _ in range(2):
        moved = ImageRecords(rec)
        assert [moved.read(i) for i in range(len(moved))] == expected


def test_unordered_keys_are_cached_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rec = _copy(tmp_path, "im2rec_scalar")
    idx = tmp_path / "train.idx"
    idx.write_text("\n".join(reversed(idx.read_text().splitlines())) + "\n")
    expected = _uncached("im2rec_scalar")
    for _ in range(2):
        assert _content(ImageRecords(rec)) == expected


def test_unwritable_folder_costs_memory_and_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rec = _copy(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with caplog.at_level(logging.WARNING):
        records = ImageRecords(rec)
    assert _content(records) == _uncached("insightface")
    assert "the folder is read-only; every process will hold" in caplog.text
    assert not (tmp_path / "train.idx.cache").exists()


def test_damaged_index_is_still_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    rec = _copy(tmp_path)
    (tmp_path / "train.idx").write_text("0\t0\nnonsense\n")
    with pytest.raises(DataError, match=r"train\.idx:2: 'nonsense'; expected 'key TAB offset'"):
        ImageRecords(rec)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train.idx", "train.rec"]


def test_other_processes_map_the_index_instead_of_receiving_it(tmp_path: Path) -> None:
    num_records = 50_000
    payload = struct.pack("<IfQQ", 0, 1.0, 7, 0) + b"image"
    record = struct.pack("<II", 0xCED7230A, len(payload)) + payload + bytes(-len(payload) % 4)
    (tmp_path / "train.rec").write_bytes(record * num_records)
    offsets = np.arange(num_records) * len(record)
    (tmp_path / "train.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets)))
    (tmp_path / "property").write_text("2,112,112\n")
    records = ImageRecords(tmp_path / "train.rec")
    assert len(pickle.dumps(records)) < 2000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(_read_last, (records,)) == records.read(num_records - 1)


def _read_last(records: ImageRecords):
    return records.read(len(records) - 1)


def test_blocks_do_not_show_in_what_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = _uncached("insightface")
    for block in (1, 2, 3, 7):
        monkeypatch.setattr(record_index, "BLOCK", block)
        monkeypatch.setattr(layout_insightface, "BLOCK", block)
        assert _uncached("insightface") == expected
        for n in range(6):
            assert record_index.is_increasing(np.arange(n))
            for at in range(1, n):
                values = np.arange(n)
                values[at] = values[at - 1]
                assert not record_index.is_increasing(values)
