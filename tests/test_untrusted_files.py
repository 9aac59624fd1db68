"""Files that were made to harm: each is refused in one line, runs nothing, and costs no more than its own size."""

from __future__ import annotations

import io
import json
import os
import pickle
import resource
import struct
import tarfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from recognition.backbones.torch_file import RefusedFileError, check_torch_file
from recognition.backbones.weights import load_backbone, read_state_dict
from recognition.commands.align_landmarks import main as align_landmarks
from recognition.commands.pack_bin import main as pack_bin
from recognition.commands.unpack_rec import parse_keys
from recognition.config.loader import load_config
from recognition.embedding.store import read_embeddings
from recognition.errors import ArcShardError, CheckpointError, ConfigError, DataError
from recognition.feed.datasets import FolderDataset, RecDataset
from recognition.feed.identity_map import offset_identities, read_identity_map
from recognition.formats import index_cache
from recognition.formats.external_shuffle import shuffle_images
from recognition.formats.image_list import LstFile
from recognition.formats.image_streams import TarStream
from recognition.formats.pair_list import parse_folds, read_pair_list
from recognition.formats.pairs_bin import read_pairs
from recognition.formats.recordio import class_id, pack_payload, parse_header
from recognition.formats.records import ImageRecords
from recognition.images.codec import decode_rgb, encode_jpeg, read_image_file
from recognition.images.photos import decode_photo
from recognition.migrate.from_arcface_torch import convert
from recognition.migrate.python_config import read_python_config
from recognition.verification.protocols import open_pair_set
from recognition.work.journal import Journal
from tests.fuzz.targets import SIDE, _checkpoint_seeds, _packed, join, pictures, read_checkpoint, split
from tests.helpers.sets import write_rec

LIMIT_S = 1.0
LIMIT_BYTES = 512 * 2**20


@pytest.fixture(autouse=True)
def _bounded() -> Iterator[None]:
    """Every case must end within a second of processor time and half a gigabyte."""
    started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - started < 5 * LIMIT_S, "the case took far too long"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < LIMIT_BYTES


def refusal(error: type[ArcShardError], call: Callable[[], Any]) -> str:
    """Return the message of the error that `call` must raise."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert message.isprintable()
    return message


class Malice:
    """Pickles to a call of os.system that leaves a mark."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


# --- code in files


def test_the_mark_would_be_left_by_a_plain_load(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Malice(tmp_path / "mark")))
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_bin_that_calls_os_system_runs_nothing(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([b"a", Malice(tmp_path / "mark")], [True]), protocol))
    for read in (read_pairs, open_pair_set):
        assert "system" in refusal(DataError, lambda read=read: read(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("wrapped", [False, True])
def test_a_pt_that_calls_os_system_runs_nothing(tmp_path: Path, is_zip: bool, wrapped: bool) -> None:
    path = tmp_path / "model.pt"
    content = {"conv1.weight": Malice(tmp_path / "mark")}
    torch.save({"state_dict": content} if wrapped else content, path, _use_new_zipfile_serialization=is_zip)
    for read in (read_state_dict, load_backbone):
        assert "its pickle asks for posix.system" in refusal(CheckpointError, lambda read=read: read(path))
    assert not (tmp_path / "mark").exists()


def test_an_arcface_checkpoint_that_calls_os_system_runs_nothing(tmp_path: Path) -> None:
    from recognition.commands.import_arcface_torch import main as import_arcface_torch

    old = tmp_path / "old"
    old.mkdir()
    torch.save({"epoch": 1, "global_step": Malice(tmp_path / "mark")}, old / "checkpoint_gpu_0.pt")
    assert import_arcface_torch([str(old), str(tmp_path / "new"), "--config", "configs/base"]) == 1
    assert not (tmp_path / "mark").exists()
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("is_torch", [False, True])
def test_a_checkpoint_that_calls_os_system_runs_nothing(tmp_path: Path, number: int, is_torch: bool) -> None:
    """Its checksums are right: whoever puts a pickle in the place of a file of tensors can write them too."""
    buffer = io.BytesIO()
    content = {"backbone.w": Malice(tmp_path / "mark")}
    torch.save(content, buffer) if is_torch else pickle.dump(content, buffer)
    parts = split(_checkpoint_seeds()[0], 4)
    read_checkpoint(join(*parts), tmp_path)
    parts[number] = buffer.getvalue()
    message = refusal(CheckpointError, lambda: read_checkpoint(join(*parts), tmp_path))
    assert "cannot be read as tensors" in message
    assert not (tmp_path / "mark").exists()


# --- packed sets


def test_a_header_with_millions_of_labels_is_refused() -> None:
    payload = struct.pack("<IfQQ", 2**20, 0.0, 0, 0) + bytes(4 * 2**20)
    assert "1048576 labels; expected at most 65536" in refusal(DataError, lambda: parse_header(payload))


def test_a_class_id_no_record_can_hold_is_refused() -> None:
    header = parse_header(pack_payload(3e38, b"image"))
    assert "expected a class id below 4294967296" in refusal(DataError, lambda: class_id(header))


def test_a_huge_number_of_classes_costs_nothing(tmp_path: Path) -> None:
    write_rec(tmp_path / "train", [(0, pictures()[0])])
    (tmp_path / "property").write_text(f"{2**32 - 1},16,16\n")
    classes = RecDataset(tmp_path / "train.rec", SIDE).num_classes
    (tmp_path / "map").write_text(f"0 {classes - 1} 5\n")
    assert offset_identities([classes, classes])(1, 7, "x") == classes + 7
    assert read_identity_map(tmp_path / "map", [classes])(0, classes - 1, "x") == 5


def test_a_file_shorter_than_a_label_has_no_plain_labels(tmp_path: Path) -> None:
    write_rec(tmp_path / "train", [(0, b"")])
    records = ImageRecords(tmp_path / "train.rec")
    assert records.labels().tolist() == [0]
    assert "holds no image" in refusal(DataError, lambda: records.read(0))


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Write a set whose index has a cache, changed as a test likes; returns the .rec."""
    monkeypatch.setattr(index_cache, "MIN_IDX_BYTES", 0)

    def write(change: Callable[[dict, np.ndarray], Any]) -> Path:
        rec, idx, _ = _packed("insightface")
        (tmp_path / "train.rec").write_bytes(rec)
        (tmp_path / "train.idx").write_bytes(idx)
        ImageRecords(tmp_path / "train.rec")
        cache = tmp_path / "train.idx.cache"
        head = json.loads(cache.read_bytes()[:4096])
        rows = np.frombuffer(cache.read_bytes()[4096:], "<i8").reshape(-1, 2).copy()
        change(head, rows)
        cache.write_bytes(json.dumps(head).encode()[:4096].ljust(4096) + rows.tobytes())
        return tmp_path / "train.rec"

    return write


@pytest.mark.parametrize("offset", [-4, -(2**62), 2**62, 6])
def test_a_cache_that_points_outside_the_file_is_refused(cached: Callable[..., Path], offset: int) -> None:
    rec = cached(lambda head, rows: rows.__setitem__((1, 1), offset))
    records = ImageRecords(rec)
    assert "record 2 at offset" in refusal(DataError, lambda: records.read(1))
    records.read_ahead([range(3)])
    assert "offset" in refusal(DataError, records.labels)
    if offset != 6:
        sink = io.BytesIO()
        shuffled = shuffle_images(records, sink, sink, seed=0, memory_bytes=2**20, scratch=rec.parent)
        assert "remove the cache" in refusal(DataError, lambda: list(shuffled))


@pytest.mark.parametrize(
    "layout",
    [
        {"images": [0, 3, 2]},
        {"images": [0, 10**9]},
        {"images": [-3, -1]},
        {"images": [0, float("inf")]},
        {"identities": [0, 10**30]},
        {"identities": "ab"},
        {"header": 10**9},
        {"header": "5"},
        {"name": ["a"]},
        {"images": [2, 2]},
    ],
)
def test_a_cache_with_an_odd_layout_is_made_anew(cached: Callable[..., Path], layout: dict) -> None:
    expected = json.loads((ImageRecords(cached(lambda *_: None)).path.parent / "train.idx.cache").read_bytes()[:4096])
    rec = cached(lambda head, rows: head["layout"].update(layout))
    assert len(ImageRecords(rec)) == 3
    assert json.loads((rec.parent / "train.idx.cache").read_bytes()[:4096])["layout"] == expected["layout"]


@pytest.mark.parametrize("counts", [{"num_needed": -1}, {"num_used": "3"}, {"num_likely": 1e300}, {"other": 1}])
def test_a_cache_with_odd_numbers_of_classes_is_made_anew(cached: Callable[..., Path], counts: dict) -> None:
    rec = cached(lambda head, rows: head["classes"].update(counts))
    assert ImageRecords(rec).num_classes == 2
    expected = {"num_needed": 2, "num_used": 2, "num_likely": 2}
    assert json.loads((rec.parent / "train.idx.cache").read_bytes()[:4096])["classes"] == expected


@pytest.mark.parametrize("content", [b"[" * 4096, b'{"format": 1', b'{"format": 1e999}'])
def test_a_cache_with_a_damaged_head_is_made_anew(cached: Callable[..., Path], content: bytes) -> None:
    rec = cached(lambda *_: None)
    cache = rec.with_name("train.idx.cache")
    cache.write_bytes(content.ljust(4096) + cache.read_bytes()[4096:])
    assert len(ImageRecords(rec)) == 3


# --- pictures


def jpeg_of_scans(number: int) -> bytes:
    """Return a progressive JPEG whose last scan stands there `number` times."""
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
    whole = cv2.imencode(".jpg", np.arange(768, dtype=np.uint8).reshape(16, 16, 3), flags)[1].tobytes()
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * number + whole[-2:]


def test_a_jpeg_of_a_thousand_scans_is_refused() -> None:
    assert decode_rgb(jpeg_of_scans(1), place="x").shape == (16, 16, 3)
    assert "is a JPEG of more than 100 scans" in refusal(DataError, lambda: decode_rgb(jpeg_of_scans(1000), place="x"))


@pytest.mark.parametrize("length", [2**31 - 1, 2**32 - 1, 10**6])
def test_a_png_whose_chunk_claims_what_the_file_lacks_is_not_decoded(
    length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV allocates and clears the length a chunk claims: 4 GB for 200 bytes."""
    whole = pictures()[1]
    at = whole.index(b"IDAT") - 4
    monkeypatch.setattr(cv2, "imdecode", None)
    torn = whole[:at] + struct.pack(">I", length) + whole[at + 4 :]
    assert "is a PNG cut off before its end" in refusal(DataError, lambda: decode_rgb(torn, place="x"))


def test_an_animation_is_no_picture() -> None:
    whole = pictures()[1]
    at = whole.index(b"IDAT") - 4
    animated = whole[:at] + struct.pack(">I4sIII", 8, b"acTL", 5, 0, 0) + whole[at:]
    assert "is an animated PNG" in refusal(DataError, lambda: decode_rgb(animated, place="x"))


def test_a_picture_of_another_size_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_rec(tmp_path / "train", [(0, encode_jpeg(np.zeros((4000, 4000, 3), np.uint8)))])
    dataset = RecDataset(tmp_path / "train.rec", SIDE)
    monkeypatch.setattr(cv2, "imdecode", None)
    assert "image is 4000x4000 pixels; expected 16x16" in refusal(DataError, lambda: dataset[0])


@pytest.mark.parametrize("sides", [(40000, 40000), (65535, 65535)])
def test_the_first_kind_of_bmp_is_bounded_too(sides: tuple[int, int]) -> None:
    head = b"BM" + struct.pack("<IHHI", 100, 0, 0, 26) + struct.pack("<IHHHH", 12, *sides, 1, 24)
    assert "pixels; expected at most" in refusal(DataError, lambda: decode_photo(head + bytes(80), place="x.bmp"))


def test_a_pipe_or_a_giant_under_a_pictures_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ada").mkdir()
    os.mkfifo(tmp_path / "ada" / "0.jpg")
    assert "is no plain file" in refusal(DataError, lambda: FolderDataset(tmp_path, SIDE)[0])
    with open(tmp_path / "big.jpg", "wb") as handle:
        handle.truncate(2**40)
    assert "expected at most 134,217,728" in refusal(DataError, lambda: read_image_file(tmp_path / "big.jpg"))


# --- lists and archives


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/hostname", "link/secret.jpg", "a/../../secret.jpg"])
def test_no_list_reaches_a_file_outside_its_folder(tmp_path: Path, name: str) -> None:
    root = tmp_path / "images"
    (root / "a").mkdir(parents=True)
    (tmp_path / "secret.jpg").write_bytes(pictures()[0])
    (root / "link").symlink_to(tmp_path)
    (tmp_path / "train.lst").write_text(f"0\t0\t{name}\n")
    listed = LstFile(tmp_path / "train.lst", root, by_label=True)
    assert "leads out of" in refusal(DataError, lambda: list(listed))
    (tmp_path / "pairs.txt").write_text(f"{name} {name} 1\n")
    assert pack_bin([str(tmp_path / "pairs.txt"), str(root), str(tmp_path / "out.bin")]) == 1
    assert not (tmp_path / "out.bin").exists()


def test_no_landmark_file_writes_outside_its_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "marks.txt").write_text("../evil.jpg 1 2 30 4 5 60 7 80 9 10\n")
    assert align_landmarks([str(tmp_path), str(tmp_path / "marks.txt"), str(tmp_path / "out")]) == 1
    assert "leaves the folder of photos" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["marks.txt"]


def test_other_digits_than_ours_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("²\t3\nada\t1\t2\n", encoding="utf-8")
    assert "found" in refusal(DataError, lambda: read_pair_list(tmp_path / "pairs.txt"))


def test_a_head_of_a_million_empty_folds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("999999999\t0\n")
    assert "says 999999999 folds of 0 pairs" in refusal(DataError, lambda: read_pair_list(tmp_path / "pairs.txt"))


def test_a_range_cannot_ask_for_the_memory() -> None:
    assert "makes over 10 keys" in refusal(DataError, lambda: parse_keys("0-99999999999", most=10))
    assert "is no fold" in refusal(ConfigError, lambda: parse_folds("1-99999999"))


def write_tar(path: Path, members: list[tuple[str, bytes, dict[str, str]]]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content, headers in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.pax_headers = headers
            tar.addfile(member, io.BytesIO(content))
    return path


def test_a_shard_with_impossible_headers_is_refused(tmp_path: Path) -> None:
    for headers in ({"GNU.sparse.realsize": "9" * 30, "GNU.sparse.map": "0,99999999999"}, {"size": "-1"}):
        path = write_tar(tmp_path / "shard.tar", [("0.jpg", pictures()[0], headers), ("0.cls", b"1", {})])
        message = refusal(DataError, lambda path=path: list(TarStream([path])))
        assert message.startswith(str(path))


def test_what_stands_beside_the_images_of_a_shard_is_not_read(tmp_path: Path) -> None:
    others = [(f"0.x{number}", bytes(2**16), {}) for number in range(5)]
    path = write_tar(tmp_path / "s.tar", [("0.jpg", pictures()[0], {}), *others, ("0.cls", b"1", {})])
    (sample,) = TarStream([path])
    assert (sample.label, sample.image) == (1, pictures()[0])


# --- verification packs


def test_flags_are_counted_before_they_are_unfolded(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    path.write_bytes(pickle.dumps(([b"a", b"b"], np.zeros(20_000_000, np.uint8)), 5))
    assert "2 images for 20,000,000 pairs" in refusal(DataError, lambda: read_pairs(path))


def test_an_array_cut_inside_an_element_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "lfw.bin"
    whole = pickle.dumps(([b"a", b"b"], np.array([1], np.int64)), 2)
    path.write_bytes(whole.replace(b"\x01\x00\x00\x00\x00\x00\x00\x00", b"\x01\x00\x00\x00\x00\x00\x00", 1))
    assert "expected" in refusal(DataError, lambda: read_pairs(path))


# --- weights


def archive_of(path: Path, content: Any, *, compression: int = zipfile.ZIP_STORED, replace: Any = ()) -> Path:
    """Save `content`, then write its archive again with `replace` done to the pickle."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            data = old.read(name)
            for before, after in replace if name.endswith("data.pkl") else ():
                assert before in data
                data = data.replace(before, after)
            new.writestr(name, data)
    return path


def test_a_file_that_only_ends_as_an_archive_is_read_as_torch_reads_it(tmp_path: Path) -> None:
    """The archive behind it is harmless, and no part of what torch would load."""
    behind = archive_of(tmp_path / "behind.pt", {"w": torch.zeros(2)}).read_bytes()
    path = tmp_path / "w.pt"
    torch.save({"w": Malice(tmp_path / "mark")}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes() + behind)
    assert zipfile.is_zipfile(path)
    with pytest.raises(RefusedFileError, match=r"asks for posix\.system"):
        check_torch_file(path)
    assert not (tmp_path / "mark").exists()


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "w.pt", {"w": torch.zeros(2**22)}, compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**17
    assert "is compressed" in refusal(CheckpointError, lambda: read_state_dict(path))


def test_a_storage_longer_than_its_entry_is_refused(tmp_path: Path) -> None:
    longer = [(b"K\x03tq", b"J\x00\x00\x00\x40tq"), (b"K\x03\x85", b"J\x00\x00\x00\x40\x85")]
    path = archive_of(tmp_path / "w.pt", {"w": torch.zeros(3)}, replace=longer)
    assert "has 12 bytes, its pickle claims 4,294,967,296" in refusal(CheckpointError, lambda: read_state_dict(path))


def test_a_storage_longer_than_the_old_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes().replace(b"K\x03N", b"J\x00\x00\x00\x40N"))
    assert "claims more storage than the file's" in refusal(CheckpointError, lambda: read_state_dict(path))


@pytest.mark.parametrize(
    ("program", "found"),
    [
        (b"cbuiltins\nbytearray\nJ\x00\x00\x00\x40\x85R", "asks for builtins.bytearray"),
        (b"ctorch\nFloatTensor\nJ\x00\x00\x00\x40\x85R", "asks for torch.FloatTensor"),
        (b"ctorch\nFloatStorage\nJ\x00\x00\x00\x40\x85R", "it is no torch file"),
        (b"ctorch.storage\nUntypedStorage\nJ\x00\x00\x00\x40\x85R", "it is no torch file"),
        (b"ccollections\nOrderedDict\n]K\x01K\x01\x86a\x85R", "calls a function with a list"),
    ],
)
def test_a_pickle_cannot_ask_for_memory(tmp_path: Path, program: bytes, found: str) -> None:
    path = tmp_path / "w.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}X\x01\x00\x00\x00w" + program + b"s.")
        archive.writestr("w/version", b"3\n")
    assert found in refusal(CheckpointError, lambda: read_state_dict(path))


def test_a_pickle_cannot_ask_for_time(tmp_path: Path) -> None:
    """A key of tuples of tuples: hashing it would take 2^60 steps."""
    path = tmp_path / "w.pt"
    tuples = b")" + b"".join(b"q%c0h%ch%c\x86" % (i, i, i) for i in range(60))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w/data.pkl", b"\x80\x02}" + tuples + b"K\x01s.")
        archive.writestr("w/version", b"3\n")
    assert "uses a tuple as a key" in refusal(CheckpointError, lambda: read_state_dict(path))


def test_a_view_that_repeats_one_number_is_no_weight(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save({"w": torch.zeros(1).expand(2**40)}, path)
    assert "is no state dict" in refusal(CheckpointError, lambda: read_state_dict(path))


# --- embeddings and journals


HUGE_SHAPE = b"{'descr':'<f4','fortran_order':False,'shape':(99999999999,9)}   \n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("embeddings.npy", b""),
        ("embeddings.npy", b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 117 + b"\n"),
        ("embeddings.npy", b"\x93NUMPY\x01\x00\x3e\x00" + HUGE_SHAPE),
        ("keys.jsonl", b"[" * 9999 + b"\n"),
        ("keys.jsonl", b'["a", 1e400]\n["b", 1]\n'),
        ("keys.jsonl", b'["a", ' + b"9" * 60 + b']\n["b", 1]\n'),
        ("embeddings.json", b"[1]"),
    ],
)
def test_damaged_embeddings_are_refused(tmp_path: Path, name: str, content: bytes) -> None:
    np.save(tmp_path / "embeddings.npy", np.ones((2, 3), np.float32))
    (tmp_path / "keys.jsonl").write_text('["a", 0]\n["b", 1]\n')
    (tmp_path / "embeddings.json").write_text("{}")
    assert len(read_embeddings(tmp_path).keys) == 2
    (tmp_path / name).write_bytes(content)
    assert "expected embeddings" in refusal(DataError, lambda: read_embeddings(tmp_path))


def test_pickled_embeddings_run_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "embeddings.npy", np.array([Malice(tmp_path / "mark")]), allow_pickle=True)
    (tmp_path / "keys.jsonl").write_text('["a", 0]\n')
    (tmp_path / "embeddings.json").write_text("{}")
    assert "cannot be read" in refusal(DataError, lambda: read_embeddings(tmp_path))
    assert not (tmp_path / "mark").exists()


def test_a_foreign_journal_is_refused(tmp_path: Path) -> None:
    Journal(tmp_path, {}).close()
    (tmp_path / "journal.jsonl").write_bytes(b'{"no key": 1}\n')
    assert "expected a line this command wrote" in refusal(DataError, lambda: Journal(tmp_path, {}))


# --- configs


LAUGHS = "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (LAUGHS, "aliases expand to more than 10,000 values"),
        ("a: " + "[" * 60_000, "nested too deeply; expected at most 20 levels"),
        ("a: [" + "1," * 60_000 + "]", "more than 10,000 values"),
        ("a: !!python/object/apply:os.system ['true']", "found the tag !!python/object/apply:os.system"),
        ("seed: " + "9" * 5000, "seed: found 9999"),
        ('output: "a\\0b"', "output: found 'a\\x00b', expected one line"),
        ("base: " + "x" * 5000, "base: no file 'xxx"),
        ("data: {image_size: 99999999}", "data.image_size: found 99999999, expected between 16 and 4,096"),
    ],
)
def test_a_hostile_yaml_is_refused(tmp_path: Path, text: str, found: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    assert found in refusal(ConfigError, lambda: load_config(str(path)))


def test_a_long_chain_of_bases_is_refused(tmp_path: Path) -> None:
    for number in range(60):
        (tmp_path / f"c{number}.yaml").write_text(f"base: c{number + 1}\n")
    (tmp_path / "c60.yaml").write_text("seed: 1\n")
    assert "a chain of over 20 files" in refusal(ConfigError, lambda: load_config(str(tmp_path / "c0")))


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        ("x0 = (1, 1)\n" + "".join(f"x{i} = (x{i - 1}, x{i - 1})\n" for i in range(1, 60)), "at most 10,000 values"),
        ("config.lr = " + "+".join(["1"] * 2000), "nested too deeply"),
        ("config.output = '\\ud800'", "a text of one line"),
        ("config.lr = 9 ** 9 ** 9", "exponent of at most 64"),
    ],
)
def test_a_hostile_python_config_is_refused(tmp_path: Path, lines: str, found: str) -> None:
    path = tmp_path / "old.py"
    path.write_text(f"config = edict()\n{lines}\n")
    assert found in refusal(ConfigError, lambda: convert(read_python_config(path), "old.py"))


def test_a_message_writes_nothing_to_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "train.lst").write_bytes(b"0\t0\t\x1b[2J\x07evil\n" + b"x" * 60_000)
    message = refusal(DataError, lambda: list(LstFile(tmp_path / "train.lst", tmp_path, by_label=False)))
    assert len(message) <= 1100
    assert str(DataError("a\nb\x1b[2J")) == "a\\nb\\x1b[2J"
