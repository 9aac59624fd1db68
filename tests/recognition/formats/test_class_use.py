"""The number of classes of a packed set: labels decide, and what others state counts where it covers them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest

from recognition.errors import DataError
from recognition.formats import index_cache
from recognition.formats.class_use import ClassUse, class_warning
from recognition.formats.recordio import RecordWriter, pack_image, pack_payload
from recognition.formats.records import ImageRecords


def write(folder: Path, labels: Sequence[int], *, scalar: bool = False, prop: int | None = None) -> Path:
    """Write insightface's layout as face2rec2 does: an identity record for each run of equal labels."""
    rec, idx = io.BytesIO(), io.BytesIO()
    writer = RecordWriter(rec, idx)
    for key, label in enumerate(labels, 1):
        writer.write(key, pack_image(label, b"image", record_id=key))
    key = first = len(labels) + 1
    start = 1
    for label, run in groupby(labels):
        stop = start + len(list(run))
        span = (float(start), float(stop))
        writer.write(key, pack_payload(float(label) if scalar else span, b"", record_id=key))
        key, start = key + 1, stop
    writer.write(0, pack_payload((float(first), float(key)), b"", id2=1))
    (folder / "train.rec").write_bytes(rec.getvalue())
    (folder / "train.idx").write_bytes(idx.getvalue())
    if prop is not None:
        (folder / "property").write_text(f"{prop},112,112\n")
    return folder / "train.rec"


def sequential(folder: Path, labels: Sequence[int], *, prop: int | None = None) -> Path:
    rec, idx = io.BytesIO(), io.BytesIO()
    writer = RecordWriter(rec, idx)
    for key, label in enumerate(labels):
        writer.write(key, pack_image(label, b"image", record_id=key))
    (folder / "train.rec").write_bytes(rec.getvalue())
    (folder / "train.idx").write_bytes(idx.getvalue())
    if prop is not None:
        (folder / "property").write_text(f"{prop},112,112\n")
    return folder / "train.rec"


SHUFFLED = np.random.default_rng(0).permutation(np.repeat(np.arange(20), 6)).tolist()


@pytest.mark.parametrize("form", [write, sequential])
@pytest.mark.parametrize(
    ("labels", "prop", "num_classes", "num_used"),
    [
        (SHUFFLED, 20, 20, 20),
        (SHUFFLED, None, 20, 20),
        (SHUFFLED, 112, 112, 20),  # somebody counted runs
        ([0, 0, 9, 9, 1, 1, 2, 2, 3, 3, 3], None, 10, 5),  # the last image has not the highest label
        ([3, 3, 2, 2, 1, 1, 0, 0], None, 4, 4),  # falling
        ([1, 1, 2, 2, 3, 3], None, 4, 3),  # from 1
        ([1, 1, 2, 2, 3, 3], 3, 4, 3),  # a property that counts people, which the labels do not keep to
        ([5, 5, 5], None, 6, 1),
    ],
)
def test_labels_decide_and_a_property_counts_where_it_covers_them(tmp_path, form, labels, prop, num_classes, num_used):
    records = ImageRecords(form(tmp_path, labels, prop=prop))
    assert records.use is not None
    assert (records.num_classes, records.use.num_used) == (num_classes, num_used)
    assert records.used_labels().tolist() == sorted(set(labels))
    assert [records.read(i).label for i in range(len(records))] == labels


def test_the_middle_of_a_run_is_not_read_and_the_ends_of_all_runs_are(tmp_path, monkeypatch):
    records = ImageRecords(write(tmp_path, [0] * 50 + [2] * 50 + [1] * 50))
    seen = []
    monkeypatch.setattr(records, "_labels_of", lambda slots, **_: seen.append(len(slots)) or np.zeros(1, np.int64))
    records.used_labels()
    assert seen == [6]


def test_one_damaged_label_far_beyond_a_property_is_a_bad_record(tmp_path):
    labels = [0, 0, 1, 1, 2, 2]
    labels[2] = 4_000_000
    records = ImageRecords(sequential(tmp_path, labels, prop=3))
    assert records.num_classes == 3
    with pytest.raises(DataError, match=r"record 2 .*label 4000000 is outside \[0, 3\)"):
        records.read(2)


def test_identity_records_with_a_scalar_are_told_as_that(tmp_path, caplog):
    records = ImageRecords(write(tmp_path, [0, 0, 1, 1, 7], scalar=True))
    assert (len(records), records.num_classes, records.num_identities) == (5, 8, 3)
    assert "record 6 at offset" in caplog.text
    assert "holds a scalar label, expected an identity record with the range of its keys" in caplog.text


def test_large_sets_count_their_classes_once(tmp_path, monkeypatch):
    monkeypatch.setattr(index_cache, "MIN_IDX_BYTES", 0)
    rec = write(tmp_path, SHUFFLED, prop=20)
    first = ImageRecords(rec)
    monkeypatch.setattr(ImageRecords, "_telling_labels", lambda _: pytest.fail("the labels are read again"))
    assert ImageRecords(rec).use == first.use == ClassUse(20, 20, 20)


def test_a_label_that_cannot_be_read_is_left_to_whoever_meets_it():
    assert ClassUse.of(np.array([-1, 0, 4, 4]), 4) == ClassUse(5, 2, 5)


@pytest.mark.parametrize(
    ("num_classes", "num_used", "words"),
    [
        (2, 2, None),
        (1134, 20, ["a/b: 20 of 1,134 classes have an image", "the 1,114 without one", "convert_rec a/b OUT/ --to"]),
        (21, 20, ["20 of 21 classes", "--renumber"]),
        (1, 1, ["1 of 1 class has an image", "the loss is 0 from the start: add people"]),
        (9, 1, ["1 of 9 classes has an image", "nobody to be told from", "--renumber"]),
    ],
)
def test_empty_classes_and_a_single_one_are_told_with_both_numbers(num_classes, num_used, words):
    warning = class_warning(num_classes, num_used, source="a/b")
    assert warning is None if words is None else warning is not None and all(word in warning for word in words)
