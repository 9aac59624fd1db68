"""Image sets in every layout, whole and damaged."""

from __future__ import annotations

import io
import logging
import multiprocessing
import pickle
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from recognition.errors import DataError
from recognition.formats import records as records_module
from recognition.formats.recordio import RecordWriter, pack_image, pack_payload
from recognition.formats.records import ImageRecord, ImageRecords, read_property
from tests.helpers.places import MXNET_GOLDEN

LABEL_OF = {"ada": 0, "bea": 1, "cyd": 2}


def _write(folder: Path, rows: list[tuple[int, bytes]], name: str = "train", property_line: str = "") -> Path:
    rec, idx = io.BytesIO(), io.BytesIO()
    writer = RecordWriter(rec, idx)
    for key, payload in rows:
        writer.write(key, payload)
    path = folder / f"{name}.rec"
    path.write_bytes(rec.getvalue())
    path.with_suffix(".idx").write_bytes(idx.getvalue())
    if property_line:
        (folder / "property").write_text(property_line + "\n")
    return path


def _images(labels: list[int], first_key: int) -> list[tuple[int, bytes]]:
    return [(key, pack_image(label, b"image %d" % key, record_id=key)) for key, label in enumerate(labels, first_key)]


def _insightface(labels: list[int]) -> list[tuple[int, bytes]]:
    """Lay records out as insightface does; `labels` are sorted."""
    rows = _images(labels, 1)
    first = len(rows) + 1
    for label in sorted(set(labels)):
        start = labels.index(label) + 1
        rows.append((len(rows) + 1, pack_payload((float(start), float(start + labels.count(label))), b"")))
    return [*rows, (0, pack_payload((float(first), float(len(rows) + 1)), b"", id2=1))]


def _contents(records: ImageRecords) -> list[ImageRecord]:
    return [records.read(i) for i in range(len(records))]


@pytest.mark.parametrize(
    ("name", "layout"),
    [("insightface", "insightface"), ("im2rec_scalar", "sequential"), ("im2rec_labels", "multilabel")],
)
def test_reads_what_mxnet_wrote(name: str, layout: str) -> None:
    records = ImageRecords(MXNET_GOLDEN / name)
    faces = {path.read_bytes(): LABEL_OF[path.parent.name] for path in (MXNET_GOLDEN / "faces").rglob("*.*g")}
    assert (records.layout, len(records), records.num_classes) == (layout, len(faces), 3)
    assert {record.image: record.label for record in _contents(records)} == faces
    assert [records.key(i) for i in range(6)] == [record.key for record in _contents(records)]
    assert records.labels().tolist() == [record.label for record in _contents(records)]


def test_images_come_in_the_order_of_the_file() -> None:
    assert [record.key for record in _contents(ImageRecords(MXNET_GOLDEN / "insightface"))] == [1, 2, 3, 4, 5, 6]
    assert [record.key for record in _contents(ImageRecords(MXNET_GOLDEN / "im2rec_scalar"))] == [2, 5, 0, 4, 3, 1]


def test_path_may_be_the_file_its_prefix_or_its_folder(tmp_path: Path) -> None:
    rec = _write(tmp_path, _images([0], 0))
    assert [ImageRecords(path).path for path in (rec, tmp_path / "train", tmp_path)] == [rec] * 3
    dotted = _write(tmp_path, _images([0], 0), name="v1.5")
    assert ImageRecords(tmp_path / "v1.5").path == dotted
    with pytest.raises(DataError, match=r"nothing\.rec: no such file; expected a \.rec, its prefix, or a folder"):
        ImageRecords(tmp_path / "nothing")


def test_a_missing_key_0_loses_nothing(tmp_path: Path) -> None:
    rows = _insightface([0, 0, 1])
    whole = _contents(ImageRecords(_write(tmp_path, rows)))
    records = ImageRecords(_write(tmp_path, rows[:-1], name="headless"))
    assert (records.layout, records.num_classes, _contents(records)) == ("insightface", 2, whole)
    records = ImageRecords(_write(tmp_path, _images([1, 0, 1], 1), name="from_one"))
    assert (records.layout, len(records), records.num_classes) == ("sequential", 3, 2)


def test_multilabel_with_two_labels_at_key_0_is_no_header(tmp_path: Path) -> None:
    rows = [(key, pack_payload((float(key % 2), 9.0), b"image", record_id=key)) for key in range(4)]
    records = ImageRecords(_write(tmp_path, rows))
    assert (records.layout, len(records), records.num_classes) == ("multilabel", 4, 2)


def test_images_as_small_as_identity_records_are_images(tmp_path: Path) -> None:
    rows = [(key, pack_payload(0.0, b"12345678")) for key in range(1, 8)]
    rows += [(8, pack_payload((1.0, 8.0), b"")), (0, pack_payload((8.0, 9.0), b"", id2=1))]
    records = ImageRecords(_write(tmp_path, rows))
    assert (len(records), records.num_identities) == (7, 1)


def test_records_may_lie_in_any_order(tmp_path: Path) -> None:
    rows = _insightface([0, 0, 0, 1, 2, 2])
    order = np.random.default_rng(1).permutation(len(rows))
    records = ImageRecords(_write(tmp_path, [rows[k] for k in order]))
    assert sorted(record.key for record in _contents(records)) == [1, 2, 3, 4, 5, 6]
    assert {record.key: record.label for record in _contents(records)} == {1: 0, 2: 0, 3: 0, 4: 1, 5: 2, 6: 2}
    assert records.labels().tolist() == [record.label for record in _contents(records)]
    assert records.num_classes == 3


def test_an_index_may_list_a_part_of_the_records(tmp_path: Path) -> None:
    rec = _write(tmp_path, _images([0, 1, 2, 3], 0))
    lines = rec.with_suffix(".idx").read_text().splitlines()
    rec.with_suffix(".idx").write_text(f"{lines[1]}\n{lines[3]}\n")
    assert [record[:2] for record in _contents(ImageRecords(rec))] == [(1, 1), (3, 3)]


def test_a_lost_index_is_rebuilt_in_memory(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rec = _write(tmp_path, _insightface([0, 0, 1]))
    whole = _contents(ImageRecords(rec))
    rec.with_suffix(".idx").unlink()
    assert _contents(ImageRecords(rec)) == whole
    assert "train.idx: rebuilt in memory with 6 records; nothing was written" in caplog.text
    assert [path.name for path in tmp_path.iterdir()] == ["train.rec"]


def test_class_ids_above_2_to_the_24_are_exact(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    labels = [2**24 - 1, 2**24, 2**24 + 1, 2**24 + 2, 2**24 + 3, 29_000_001]
    records = ImageRecords(_write(tmp_path, _insightface(labels)))
    assert [record.label for record in _contents(records)] == labels
    assert records.labels().tolist() == labels
    assert records.num_classes == 29_000_002
    assert not caplog.records
    rows = [(key, pack_payload(float(label), b"image", record_id=key)) for key, label in enumerate(labels, 1)]
    ImageRecords(_write(tmp_path, [*rows, (7, pack_payload((1.0, 7.0), b""))], name="mxnet"))
    assert "class ids above 16777216 are float32 here: some may be shared" in caplog.text


def test_header_numbers_above_2_to_the_24_may_be_rounded(tmp_path: Path) -> None:
    first = 2**24 + 1  # stored as 2^24
    rows = _images([0], first - 1)
    rows += [(first, pack_payload((float(first - 1), float(first)), b""))]
    rows += [(0, pack_payload((float(first), float(first + 1)), b"", id2=1))]
    assert len(ImageRecords(_write(tmp_path, rows))) == 1


def test_number_of_classes_without_property_is_read_from_the_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records_module, "_LABEL_BLOCK", 3)
    labels = [4, 0, 17, 3, 2, 1, 0, 2**24 + 5]
    rows = _images(labels, 0)
    # A record that is cut because its image holds the magic word.
    rows[1] = (1, pack_image(0, struct.pack("<I", 0xCED7230A) * 3, record_id=1))
    records = ImageRecords(_write(tmp_path, rows))
    assert records.labels().tolist() == labels
    assert records.num_classes == 2**24 + 6


def test_property_states_the_number_of_classes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rec = _write(tmp_path, _images([0, 1], 0), property_line="10,112,112\n2\nshuffled")
    assert ImageRecords(rec).num_classes == 10
    _write(tmp_path, _insightface([0, 1, 7]), property_line="2,112,112")
    assert ImageRecords(rec).num_classes == 8
    assert "says 2 classes, but train.rec has 8; using these" in caplog.text
    for line in ("10", "a,b,c", "10,112,112,3", "-1,112,112", f"{2**32},1,1"):
        (tmp_path / "property").write_text(line)
        with pytest.raises(DataError, match=r"property:1: .*; expected num_classes,height,width"):
            read_property(tmp_path / "property")


def test_a_label_outside_the_classes_names_file_and_key(tmp_path: Path) -> None:
    records = ImageRecords(_write(tmp_path, _images([0, 5], 0), property_line="5,112,112"))
    assert records.read(0).label == 0
    words = r"train\.rec: record 1 at offset 40: label 5 is outside \[0, 5\) \(from .*property"
    with pytest.raises(DataError, match=words):
        records.read(1)


def test_an_empty_image_is_refused_with_key_and_offset(tmp_path: Path) -> None:
    records = ImageRecords(_write(tmp_path, [*_images([0], 0), (1, pack_payload(0.0, b""))]))
    with pytest.raises(DataError, match=r"record 1 at offset 40: holds no image \(label 0, flag 0\)"):
        records.read(1)


def _truncate(rec: Path) -> None:
    rec.write_bytes(rec.read_bytes()[:-8])


def _cut_far(rec: Path) -> None:
    rec.write_bytes(rec.read_bytes()[:100])


def _shift_index(rec: Path) -> None:
    idx = rec.with_suffix(".idx")
    idx.write_text(idx.read_text().replace("\t40\n", "\t44\n"))


def _spoil_magic(rec: Path) -> None:
    content = bytearray(rec.read_bytes())
    content[40] ^= 1
    rec.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_truncate, r"record 3 at offset 120: needs 39 bytes, but only 32 are left .* truncated"),
        (_cut_far, r"train\.idx: key 3: offset 120 is no place for a record in train\.rec of 100 bytes"),
        (_shift_index, r"record 1 at offset 44: found 0x0000001f where a record starts with 0xced7230a"),
        (_spoil_magic, r"record 1 at offset 40: found 0xced7230b where a record starts"),
    ],
)
def test_damage_is_named_with_record_and_offset(tmp_path: Path, damage: Callable[[Path], None], words: str) -> None:
    rec = _write(tmp_path, _images([0, 1, 1, 0], 0), property_line="2,112,112")
    damage(rec)
    with pytest.raises(DataError, match=words):
        _contents(ImageRecords(rec))


def test_an_index_that_disagrees_with_key_0_is_refused(tmp_path: Path) -> None:
    rows = _insightface([0, 0, 1])
    rec = _write(tmp_path, rows)
    for kept, span in ((rows[:4] + rows[5:], "4 to 5"), (rows[:3] + rows[5:], "0 to 0")):
        _write(tmp_path, kept)
        with pytest.raises(DataError, match=f"key 0 announces identity records 4 to 6, the index has {span}"):
            ImageRecords(rec)


def test_a_set_without_images_is_refused(tmp_path: Path) -> None:
    rec = _write(tmp_path, [(1, pack_payload((1.0, 1.0), b"")), (0, pack_payload((1.0, 2.0), b"", id2=1))])
    with pytest.raises(DataError, match=r"train\.rec: has 2 records and no image"):
        ImageRecords(rec)


def test_an_index_past_the_end_is_an_index_error(tmp_path: Path) -> None:
    records = ImageRecords(_write(tmp_path, _images([0], 0)))
    with pytest.raises(IndexError):
        records.read(1)


def _read_all(records: ImageRecords) -> list[ImageRecord]:
    return _contents(records)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_other_processes_read_the_same(method: str) -> None:
    records = ImageRecords(MXNET_GOLDEN / "insightface")
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.map(_read_all, [records] * 3) == [_contents(records)] * 3


def test_threads_share_one_object(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [rng.bytes(int(length)) for length in rng.integers(1, 200_000, 200)]
    rec = _write(tmp_path, [(key, pack_image(0, image, record_id=key)) for key, image in enumerate(images)])
    records = ImageRecords(rec)
    with ThreadPoolExecutor(8) as pool:
        assert [record.image for record in pool.map(records.read, list(range(200)) * 3)] == images * 3


def test_a_pickled_set_holds_no_file_and_opens_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    records = ImageRecords(MXNET_GOLDEN / "im2rec_scalar")
    caplog.clear()
    copy = pickle.loads(pickle.dumps(records))
    assert _contents(copy) == _contents(records)
    assert not caplog.records, "nothing is parsed or scanned a second time"
