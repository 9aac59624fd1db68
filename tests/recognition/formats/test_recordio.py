"""RecordIO bytes against golden files of MXNet 1.9.1, and against files made to harm."""

from __future__ import annotations

import io
import json
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recognition.errors import DataError
from recognition.formats.record_index import RecordIndex, load_index, read_index_lines, scan_index, write_index
from recognition.formats.recordio import (
    EXACT_MARK,
    MAGIC,
    Header,
    RecordWriter,
    class_id,
    frame,
    pack_image,
    pack_payload,
    parse_header,
    read_record,
)
from tests.helpers.places import MXNET_GOLDEN

EXPECTED = json.loads((MXNET_GOLDEN / "expected.json").read_text())
WORD = struct.pack("<I", MAGIC)


def _golden_records(name: str) -> dict[int, bytes]:
    index = load_index(MXNET_GOLDEN / f"{name}.rec", MXNET_GOLDEN / f"{name}.idx")
    with open(MXNET_GOLDEN / f"{name}.rec", "rb") as handle:
        ends = zip(index.keys.tolist(), index.bounds.tolist(), index.bounds.tolist()[1:])
        return {key: read_record(handle.fileno(), start, stop)[0] for key, start, stop in ends}


def _written(records: list[tuple[int, bytes]]) -> tuple[bytes, bytes]:
    rec, idx = io.BytesIO(), io.BytesIO()
    writer = RecordWriter(rec, idx)
    for key, payload in records:
        writer.write(key, payload)
    return rec.getvalue(), idx.getvalue()


def _scalar_payloads() -> list[tuple[int, bytes]]:
    return [
        (key, pack_payload(label, bytes.fromhex(image), record_id=record_id, id2=id2))
        for key, label, record_id, id2, image in EXPECTED["scalar"]
    ]


def _array_payloads() -> list[tuple[int, bytes]]:
    return [
        (key, pack_payload(tuple(labels), bytes.fromhex(image), record_id=key))
        for key, labels, image in EXPECTED["array"]
    ]


def _split_payloads() -> list[tuple[int, bytes]]:
    return list(enumerate(map(bytes.fromhex, EXPECTED["split"])))


CASES = [("scalar", _scalar_payloads()), ("array", _array_payloads()), ("split", _split_payloads())]


@pytest.mark.parametrize(("name", "records"), CASES, ids=[name for name, _ in CASES])
def test_writes_the_bytes_that_mxnet_writes(name: str, records: list[tuple[int, bytes]]) -> None:
    rec, idx = _written(records)
    assert rec == (MXNET_GOLDEN / f"{name}.rec").read_bytes()
    assert idx == (MXNET_GOLDEN / f"{name}.idx").read_bytes()


@pytest.mark.parametrize(("name", "records"), CASES, ids=[name for name, _ in CASES])
def test_reads_what_mxnet_wrote(name: str, records: list[tuple[int, bytes]]) -> None:
    assert _golden_records(name) == dict(records)


def test_reads_the_headers_that_mxnet_wrote() -> None:
    payloads = _golden_records("scalar")
    for key, label, record_id, id2, image in EXPECTED["scalar"]:
        header = parse_header(payloads[key])
        assert header == Header(0, (float(np.float32(label)),), record_id, id2, 24)
        assert payloads[key][header.size :] == bytes.fromhex(image)
    payloads = _golden_records("array")
    for key, labels, image in EXPECTED["array"]:
        header = parse_header(payloads[key])
        assert header == Header(len(labels), tuple(labels), key, 0, 24 + 4 * len(labels))
        assert payloads[key][header.size :] == bytes.fromhex(image)


def test_repeats_what_im2rec_wrote_from_its_list() -> None:
    records = []
    for line in (MXNET_GOLDEN / "im2rec_scalar.lst").read_text().splitlines():
        key, label, path = line.split("\t")
        image = (MXNET_GOLDEN / "faces" / path).read_bytes()
        records.append((int(key), pack_image(int(float(label)), image, record_id=int(key))))
    rec, idx = _written(records)
    assert rec == (MXNET_GOLDEN / "im2rec_scalar.rec").read_bytes()
    assert idx == (MXNET_GOLDEN / "im2rec_scalar.idx").read_bytes()


def _frame_slowly(payload: bytes) -> bytes:
    """Frame word by word, as the format is described: an independent version of `frame`."""
    out, part, parts = b"", b"", 0
    for at in range(0, len(payload), 4):
        word = payload[at : at + 4]
        if word == WORD:
            out += WORD + struct.pack("<I", (1 if parts == 0 else 2) << 29 | len(part)) + part
            part, parts = b"", parts + 1
        else:
            part += word
    out += WORD + struct.pack("<I", (3 if parts else 0) << 29 | len(part)) + part
    return out + b"\0" * (-len(payload) % 4)


@given(st.lists(st.one_of(st.just(WORD), st.binary(max_size=5)), max_size=8).map(b"".join))
def test_any_payload_comes_back_whole(payload: bytes) -> None:
    framed = frame(payload)
    assert framed == _frame_slowly(payload)
    descriptor = os.memfd_create("record")
    try:
        os.write(descriptor, b"\0\0\0\0" + framed)
        assert read_record(descriptor, 4, 4 + len(framed)) == (payload, 4 + len(framed))
    finally:
        os.close(descriptor)


def test_a_record_longer_than_one_read_comes_back_whole(tmp_path: Path) -> None:
    payload = np.random.default_rng(0).bytes(300_001)
    (tmp_path / "x").write_bytes(frame(payload))
    with open(tmp_path / "x", "rb") as handle:
        assert read_record(handle.fileno(), 0, 300_012) == (payload, 300_012)


@pytest.mark.parametrize("label", [0, 2**24, 2**24 + 1, 29_000_001, 2**32 - 1])
def test_class_ids_are_exact(label: int) -> None:
    header = parse_header(pack_image(label, b"jpeg", record_id=5))
    assert class_id(header) == label
    assert header.labels == (float(np.float32(label)),)
    assert (header.id2 != 0) == (label > 2**24), "small ids keep the bytes that MXNet writes"


def test_the_id_is_never_taken_for_a_label() -> None:
    assert class_id(Header(0, (3.0,), 77, 0, 24)) == 3
    assert class_id(Header(0, (3.0,), 77, 5, 24)) == 3, "an id2 without the mark says nothing"


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (Header(0, (-1.0,), 0, 0, 24), "label -1.0; expected a whole number from 0 on"),
        (Header(0, (float("nan"),), 0, 0, 24), "label nan"),
        (Header(0, (float("inf"),), 0, 0, 24), "label inf"),
        (Header(0, (0.5,), 0, 0, 24), "label 0.5"),
        (Header(0, (7.0,), 0, EXACT_MARK << 32 | 20_000_000, 24), "label 7 contradicts the exact class id 20000000"),
    ],
)
def test_refuses_labels_that_are_none(header: Header, words: str) -> None:
    with pytest.raises(DataError, match=words):
        class_id(header)


def _part(cflag: int, content: bytes, length: int | None = None) -> bytes:
    stated = len(content) if length is None else length
    return WORD + struct.pack("<I", cflag << 29 | stated) + content + b"\0" * (-len(content) % 4)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "ends 0 bytes into a record's head"),
        (WORD + b"\0\0", "ends 6 bytes into a record's head"),
        (b"JFIF" * 4, "where a record starts with 0xced7230a"),
        (_part(0, b"abcd", 5), "needs 13 bytes, but only 12 are left"),
        (_part(0, b"", 2**29 - 1), "needs 536870919 bytes, but only 8 are left"),
        (_part(1, b"abcd"), "ends 0 bytes into a record's head"),
        (_part(1, b"abcd") + _part(0, b"abcd"), "part 1 has cflag 0"),
        (_part(1, b"abcd") + _part(1, b"abcd"), "part 1 has cflag 1"),
        (_part(2, b"abcd"), "part 0 has cflag 2"),
        (_part(3, b"abcd"), "part 0 has cflag 3"),
        (_part(5, b"abcd"), "part 0 has cflag 5"),
        (_part(1, b"abcd") + _part(2, b"", 2**29 - 5) + _part(3, b""), "add up to more than 536870911 bytes"),
        (_part(1, b"abcd") + _part(2, b"", 2**20) + _part(3, b""), "only 28 are left"),
        (_part(1, b"") + _part(2, b"") * 1000, "ends 0 bytes into a record's head"),
    ],
)
def test_refuses_damaged_records(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "x").write_bytes(content)
    with open(tmp_path / "x", "rb") as handle, pytest.raises(DataError, match=words):
        read_record(handle.fileno(), 0, len(content))


@pytest.mark.parametrize(
    ("payload", "words"),
    [
        (b"short", "a payload of 5 bytes; an image record has a header of 24"),
        (struct.pack("<IfQQ", 2**32 - 1, 0, 0, 0), "a header with 4294967295 labels in a payload of 24 bytes"),
    ],
)
def test_refuses_damaged_headers(payload: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        parse_header(payload)


def test_refuses_to_write_a_payload_that_the_length_cannot_hold() -> None:
    class Long(bytes):
        def __len__(self) -> int:
            return 2**29

    with pytest.raises(DataError, match="a record of 536870912 bytes; the format ends at 536870911"):
        frame(Long())


def _index_of(tmp_path: Path, text: bytes, size: int = 10**6) -> RecordIndex:
    (tmp_path / "x.idx").write_bytes(text)
    with open(tmp_path / "x.rec", "wb") as handle:
        handle.truncate(size)
    return load_index(tmp_path / "x.rec", tmp_path / "x.idx")


def test_index_is_sorted_by_offset(tmp_path: Path) -> None:
    index = _index_of(tmp_path, b"5\t400\n1\t0\n0\t999992\n")
    assert index.keys.tolist() == [1, 5, 0]
    assert index.bounds.tolist() == [0, 400, 999992, 1000000]


@pytest.mark.parametrize(
    "text",
    [b"1\t0\r\n2\t40\r\n", b"1 0\n2   40", b"\n1\t0\n\n2\t40\n\n", b"001\t0\n2\t000000000000000040\n"],
)
def test_index_lines_may_be_loosely_written(tmp_path: Path, text: bytes) -> None:
    index = _index_of(tmp_path, text)
    assert (index.keys.tolist(), index.bounds.tolist()) == ([1, 2], [0, 40, 1000000])


@given(st.lists(st.tuples(st.integers(0, 10**16 - 1), st.integers(0, 10**16 - 1)), max_size=50), st.booleans())
def test_fast_and_slow_parsing_agree(tmp_path_factory: pytest.TempPathFactory, rows: list, newline: bool) -> None:
    path = tmp_path_factory.getbasetemp() / "agree.idx"
    text = "\n".join(f"{key}\t{offset}" for key, offset in rows) + "\n" * newline
    path.write_text(text)
    keys, offsets = read_index_lines(path)
    assert list(zip(keys.tolist(), offsets.tolist())) == rows


def test_index_is_parsed_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recognition.formats.record_index._CHUNK_BYTES", 7)
    rows = [(n, n * 4321) for n in range(100)]
    (tmp_path / "x.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in rows))
    keys, offsets = read_index_lines(tmp_path / "x.idx")
    assert list(zip(keys.tolist(), offsets.tolist())) == rows
    (tmp_path / "x.idx").write_text("".join(f"{key}\t{offset}\n" for key, offset in rows) + "here\n")
    with pytest.raises(DataError, match=r"x\.idx:101: 'here'; expected 'key TAB offset'"):
        read_index_lines(tmp_path / "x.idx")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "has no entries"),
        (b"1\t0\nnonsense\n", r"x\.idx:2: 'nonsense'; expected 'key TAB offset'"),
        (b"1\t0\n2\n", r"x\.idx:2: '2'"),
        (b"1\t0\t5\n", r"x\.idx:1: "),
        (b"-1\t0\n", r"x\.idx:1: "),
        (b"1\t0.5\n", r"x\.idx:1: "),
        (b"1\t9999999999999999999999\n", r"x\.idx:1: "),
        (b"\x00\xff\n", r"x\.idx:1: "),
        (b"1" * 70_000, r"x\.idx:1: over 65536 bytes"),
        (b"1\t0\n2\t1000000\n", "key 2: offset 1000000 is no place for a record in x.rec of 1000000 bytes"),
        (b"1\t0\n2\t42\n", "key 2: offset 42 is no place"),
        (b"1\t0\n1\t40\n", "key 1 occurs more than once"),
        (b"1\t0\n2\t40\n3\t80\n2\t120\n", "key 2 occurs more than once"),
        (b"1\t0\n2\t40\n3\t40\n", "offset 40 occurs more than once"),
    ],
)
def test_refuses_a_damaged_index(tmp_path: Path, text: bytes, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _index_of(tmp_path, text)


@pytest.mark.parametrize("name", ["insightface", "im2rec_scalar", "im2rec_labels"])
def test_a_scan_finds_what_the_index_says(name: str) -> None:
    listed = load_index(MXNET_GOLDEN / f"{name}.rec", MXNET_GOLDEN / f"{name}.idx")
    scanned = scan_index(MXNET_GOLDEN / f"{name}.rec")
    assert scanned.keys.tolist() == listed.keys.tolist()
    assert scanned.bounds.tolist() == listed.bounds.tolist()


def test_a_scan_numbers_records_whose_ids_repeat(tmp_path: Path) -> None:
    (tmp_path / "x.rec").write_bytes(_written([(k, pack_payload(0.0, b"x" * k)) for k in range(5)])[0])
    assert scan_index(tmp_path / "x.rec").keys.tolist() == [0, 1, 2, 3, 4]


def test_a_scan_names_the_record_at_which_a_file_is_cut(tmp_path: Path) -> None:
    content = (MXNET_GOLDEN / "im2rec_scalar.rec").read_bytes()
    (tmp_path / "x.rec").write_bytes(content[:-60])
    with pytest.raises(DataError, match=r"x\.rec: record number 5 at offset 3436: needs \d+ bytes, .* is truncated"):
        scan_index(tmp_path / "x.rec")
    (tmp_path / "x.rec").write_bytes(b"")
    with pytest.raises(DataError, match="is empty"):
        scan_index(tmp_path / "x.rec")


def test_a_written_index_is_mxnets(tmp_path: Path) -> None:
    write_index(load_index(MXNET_GOLDEN / "insightface.rec", MXNET_GOLDEN / "insightface.idx"), tmp_path / "x.idx")
    assert (tmp_path / "x.idx").read_bytes() == (MXNET_GOLDEN / "insightface.idx").read_bytes()
