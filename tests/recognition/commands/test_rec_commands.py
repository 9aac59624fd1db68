"""unpack_rec, convert_rec, merge_rec and shuffle_rec: images keep their bytes, labels their meaning."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.commands.convert_rec import main as convert
from recognition.commands.merge_rec import main as merge
from recognition.commands.pack_rec import main as pack
from recognition.commands.shuffle_rec import main as shuffle
from recognition.commands.unpack_rec import main as unpack
from recognition.commands.unpack_rec import parse_keys
from recognition.errors import DataError
from recognition.formats import external_shuffle
from recognition.formats.image_streams import open_stream
from recognition.formats.recordio import MAGIC, RecordWriter, pack_image, pack_payload
from recognition.formats.records import ImageRecords
from tests.helpers.places import MXNET_GOLDEN
from tests.helpers.trees import files_below

PEOPLE = (3, 1, 4, 2)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for person, num_images in enumerate(PEOPLE):
        folder = tmp_path / "faces" / f"p{person}"
        folder.mkdir(parents=True)
        for number in range(num_images):
            pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
            suffix = "png" if number == 1 else "jpg"
            (folder / f"{number}.{suffix}").write_bytes(cv2.imencode(f".{suffix}", pixels)[1].tobytes())
    return tmp_path / "faces"


@pytest.fixture
def packed(faces: Path, tmp_path: Path) -> Path:
    assert pack([str(faces), str(tmp_path / "packed" / "train"), "--quiet"]) == 0
    return tmp_path / "packed" / "train.rec"


def _images(path: Path) -> list[tuple[int, bytes]]:
    records = ImageRecords(path)
    return [(records.read(i).label, records.read(i).image) for i in range(len(records))]


def _multilabel(folder: Path) -> Path:
    folder.mkdir()
    with open(folder / "train.rec", "wb") as rec, open(folder / "train.idx", "wb") as idx:
        writer = RecordWriter(rec, idx)
        for key in range(7):
            writer.write(key, pack_payload((float(key % 3), key / 2, -1.0), b"\xff\xd8image%d" % key, record_id=key))
    return folder / "train.rec"


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


def test_unpacked_images_pack_to_the_same_set(packed: Path, tmp_path: Path, capsys) -> None:
    assert unpack([str(packed), str(tmp_path / "out")]) == 0
    assert "unpacked 10 images, 4 identities, 0 of them there already, in " in capsys.readouterr().out
    assert (tmp_path / "out" / "images.lst").read_text().splitlines()[1] == "2\t0\t0/2.png"
    assert pack([str(tmp_path / "out" / "images.lst"), str(tmp_path / "again" / "train")]) == 0
    assert (tmp_path / "again" / "train.rec").read_bytes() == packed.read_bytes()


def test_unpack_takes_chosen_keys_and_names_missing_ones(packed: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "keys.txt").write_text("8-9\n2\n")
    assert unpack([str(packed), str(tmp_path / "out"), "--keys", f"@{tmp_path / 'keys.txt'}"]) == 0
    names = sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.*g"))
    assert names == ["0/2.png", "2/8.jpg", "3/9.jpg"]
    assert unpack([str(packed), str(tmp_path / "other"), "--keys", "5,11"]) == 1
    message = "key 11 is not an image; 1 of the 2 requested keys are not there; images have keys from 1 to 10"
    assert message in _error(capsys)
    with pytest.raises(DataError, match="--keys: 'x'; expected a key such as 5 or a range such as 10-19"):
        parse_keys("1,x", most=9)


def test_unpack_continues_where_it_was_interrupted(packed: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert unpack([str(packed), str(out)]) == 0
    assert unpack([str(packed), str(out)]) == 1
    assert "holds an unpacked set already; expected a new OUT; pass --overwrite to replace it" in _error(capsys)
    (out / "0" / "1.jpg").write_bytes(b"cut")
    (out / "3" / "9.jpg").unlink()
    assert unpack([str(packed), str(out), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["num_kept"] == 8
    assert pack([str(out / "images.lst"), str(tmp_path / "again" / "train")]) == 0
    assert (tmp_path / "again" / "train.rec").read_bytes() == packed.read_bytes()


@pytest.mark.parametrize("layout", ["sequential", "multilabel", "webdataset", "folder"])
def test_converting_there_and_back_gives_the_same_bytes(layout: str, packed: Path, tmp_path: Path) -> None:
    there = tmp_path / "there" / ("train" if layout in ("sequential", "multilabel") else "")
    assert convert([str(packed), str(there), "--to", layout, "--shard-images", "4"]) == 0
    if layout in ("sequential", "multilabel"):
        assert ImageRecords(there).layout == layout
        assert _images(there) == _images(packed)
    assert convert([str(there), str(tmp_path / "back" / "train"), "--to", "insightface"]) == 0
    for suffix in (".rec", ".idx"):
        assert (tmp_path / "back" / f"train{suffix}").read_bytes() == packed.with_suffix(suffix).read_bytes()


def test_shards_are_webdatasets_and_the_same_every_time(packed: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        assert convert([str(packed), str(tmp_path / name), "--to", "webdataset", "--shard-images", "4"]) == 0
    shards = sorted((tmp_path / "a").glob("*.tar"))
    assert [shard.name for shard in shards] == ["shard-000000.tar", "shard-000001.tar", "shard-000002.tar"]
    assert [shard.read_bytes() for shard in shards] == [(tmp_path / "b" / shard.name).read_bytes() for shard in shards]
    with tarfile.open(shards[1]) as tar:
        assert tar.getnames()[:4] == ["000000004.jpg", "000000004.cls", "000000005.png", "000000005.cls"]
        handle = tar.extractfile("000000004.cls")
        assert handle is not None
        assert handle.read() == b"2"


def test_side_labels_survive_a_multilabel_copy(tmp_path: Path) -> None:
    source = _multilabel(tmp_path / "source")
    assert convert([str(source), str(tmp_path / "copy" / "train"), "--to", "insightface"]) == 1  # image0 is no image
    rec = tmp_path / "real"
    rec.mkdir()
    jpeg = cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with open(rec / "train.rec", "wb") as handle, open(rec / "train.idx", "wb") as idx:
        writer = RecordWriter(handle, idx)
        for key in range(5):
            writer.write(key, pack_payload((float(key % 2), key / 2), jpeg, record_id=key))
    assert convert([str(rec), str(tmp_path / "same" / "train"), "--to", "multilabel"]) == 0
    assert (tmp_path / "same" / "train.rec").read_bytes() == (rec / "train.rec").read_bytes()


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("1.jpg", b"x")], "1: has .jpg and label b''; expected .jpg and .cls"),
        ([("1.cls", b"4")], "1: has .cls and label b'4'"),
        ([("1.jpg", b"x"), ("1.cls", b"four")], "label b'four'"),
        ([("1.jpg", b"x"), ("1.cls", b"99999999999")], "label b'99999999999'"),
    ],
)
def test_odd_shards_are_errors(members: list, message: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "wds").mkdir()
    with tarfile.open(tmp_path / "wds" / "x.tar", "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    assert convert([str(tmp_path / "wds"), str(tmp_path / "out" / "train"), "--to", "sequential"]) == 1
    assert message in _error(capsys)
    assert not (tmp_path / "out").exists()


def test_a_cut_shard_is_an_error(packed: Path, tmp_path: Path, capsys) -> None:
    assert convert([str(packed), str(tmp_path / "wds"), "--to", "webdataset"]) == 0
    shard = tmp_path / "wds" / "shard-000000.tar"
    shard.write_bytes(shard.read_bytes()[:1300])
    assert convert([str(shard), str(tmp_path / "out" / "train"), "--to", "sequential"]) == 1
    assert "shard-000000.tar: not a whole .tar (unexpected end of data)" in _error(capsys)


def test_merge_numbers_identities_behind_those_before(packed: Path, tmp_path: Path, capsys) -> None:
    assert merge([str(packed), str(packed.parent), str(tmp_path / "merged" / "train")]) == 0
    assert capsys.readouterr().out.startswith("merged 2 sets: 20 images, 8 identities in ")
    merged = ImageRecords(tmp_path / "merged")
    assert (merged.layout, merged.num_classes) == ("insightface", 8)
    expected = _images(packed)
    assert _images(merged.path) == expected + [(label + 4, image) for label, image in expected]


def test_merge_with_a_map_and_with_common_identities(packed: Path, tmp_path: Path, capsys) -> None:
    lines = [f"{number}\t{label}\t{label if number == 0 else 3 + label}" for number in range(2) for label in range(4)]
    (tmp_path / "map.tsv").write_text("\n".join(lines) + "\n")
    command = [str(packed), str(packed), str(tmp_path / "merged" / "train"), "--map", str(tmp_path / "map.tsv")]
    assert merge(command) == 0
    merged = ImageRecords(tmp_path / "merged")
    assert (merged.layout, merged.num_classes) == ("sequential", 7)
    expected = _images(packed)
    assert _images(merged.path) == expected + [(label + 3, image) for label, image in expected]
    assert merge([*command[:2], str(tmp_path / "same" / "train"), "--same-identities"]) == 0
    assert _images(tmp_path / "same" / "train.rec") == expected * 2
    (tmp_path / "map.tsv").write_text("\n".join(lines[:-1]) + "\n")
    assert merge([*command, "--overwrite"]) == 1
    error = _error(capsys)
    assert "map.tsv: misses 1 of the 4 identities" in error
    assert "(class 3); expected a line for each; add them" in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 1", "map.tsv:1: '0 1'; expected 'set TAB class id TAB new class id'"),
        ("2 0 0", "map.tsv:1: there is no class 0 of set 2"),
        ("0 4 0", "map.tsv:1: there is no class 4 of set 0"),
        ("0 1 1\n0 1 2", "map.tsv:2: class 1 of set 0 was given 1 above"),
    ],
)
def test_odd_maps_are_errors(line: str, message: str, packed: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "map.tsv").write_text(line + "\n")
    assert merge([str(packed), str(packed), str(tmp_path / "m" / "train"), "--map", str(tmp_path / "map.tsv")]) == 1
    assert message in _error(capsys)


def _frames(path: Path) -> list[bytes]:
    records = ImageRecords(path)
    content, bounds = records.path.read_bytes(), records.index.bounds
    return [content[bounds[slot] : bounds[slot + 1]] for slot in records.parts.images]


@pytest.mark.parametrize("memory_mib", [1, 768])
@pytest.mark.parametrize("name", ["insightface", "im2rec_scalar", "im2rec_labels", "large"])
def test_shuffle_keeps_every_record_once(
    name: str, memory_mib: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(external_shuffle, "_READ_BYTES", 10_000)
    source = _large(tmp_path / "source") if name == "large" else MXNET_GOLDEN / f"{name}.rec"
    assert shuffle([str(source), str(tmp_path / "out" / "train"), "--memory", str(memory_mib)]) == 0
    assert f"shuffled {len(ImageRecords(source)):,} images in " in capsys.readouterr().out
    before, after = _frames(source), _frames(tmp_path / "out" / "train.rec")
    assert sorted(before) == sorted(after)
    shuffled = ImageRecords(tmp_path / "out")
    assert shuffled.index.keys.tolist() == list(range(len(before)))
    if name == "large":
        assert before != after
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["property", "train.idx", "train.rec"]
        places = {frame: place for place, frame in enumerate(after)}
        moved = [places[frame] for frame in before]
        assert abs(np.corrcoef(np.arange(len(moved)), moved)[0, 1]) < 0.1


def _large(folder: Path) -> Path:
    """3000 records of 1.1 MB in all, some of them split because they hold the magic."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    with open(folder / "train.rec", "wb") as rec, open(folder / "train.idx", "wb") as idx:
        writer = RecordWriter(rec, idx)
        for key in range(3000):
            image = rng.bytes(int(rng.integers(1, 700)))
            if key % 100 == 0:
                image = b"abcd" + MAGIC.to_bytes(4, "little") + image
            writer.write(key, pack_image(key // 10, image, record_id=key))
    (folder / "property").write_text("300,8,8\n")
    return folder / "train.rec"


def test_shuffle_is_a_function_of_its_seed(tmp_path: Path) -> None:
    source = _large(tmp_path / "source")
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert shuffle([str(source), str(tmp_path / name / "train"), "--seed", str(seed), "--memory", "2"]) == 0
    a, b, c = ((tmp_path / name / "train.rec").read_bytes() for name in "abc")
    assert a == b != c


def test_shuffle_names_a_damaged_record_and_leaves_nothing(tmp_path: Path, capsys) -> None:
    source = _large(tmp_path / "source")
    content = bytearray(source.read_bytes())
    at = int(ImageRecords(source).index.bounds[1234])
    content[at : at + 4] = b"oops"
    source.write_bytes(content)
    assert shuffle([str(source), str(tmp_path / "out" / "train")]) == 1
    assert f"train.rec: record 1234 at offset {at}: found 0x73706f6f where a record starts" in _error(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", [merge, shuffle])
def test_nothing_is_replaced_without_overwrite(command, packed: Path, capsys) -> None:
    before = packed.read_bytes()
    assert command([str(packed), str(packed.with_suffix(""))]) == 1
    assert "exists already; expected a new path; pass --overwrite to replace it" in _error(capsys)
    assert packed.read_bytes() == before


@pytest.mark.parametrize("layout", ["webdataset", "folder"])
def test_overwrite_leaves_nothing_of_a_longer_output(layout: str, packed: Path, tmp_path: Path) -> None:
    few = tmp_path / "few" / "train"
    assert unpack([str(packed), str(tmp_path / "some"), "--keys", "1-3"]) == 0
    assert pack([str(tmp_path / "some" / "images.lst"), str(few)]) == 0
    out, alone = tmp_path / "out", tmp_path / "alone"
    more = ["--to", layout, "--shard-images", "2"]
    assert convert([str(packed), str(out), *more]) == 0
    assert convert([f"{few}.rec", str(out), *more, "--overwrite"]) == 0
    assert convert([f"{few}.rec", str(alone), *more]) == 0
    assert files_below(out) == files_below(alone)
    assert len(open_stream(out)) == 3


def test_overwrite_replaces_no_folder_with_other_files(packed: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert unpack([str(packed), str(out)]) == 0
    (out / "0" / "portrait.jpg").write_bytes(b"somebody's own")
    before = files_below(out)
    for command in (unpack, lambda argv: convert([*argv, "--to", "folder"])):
        assert command([str(packed), str(out), "--overwrite"]) == 1
        assert "which is no file of " in _error(capsys)
        assert files_below(out) == before


def test_a_reshuffled_set_keeps_no_list_of_another(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "other" / "train"
    assert pack([str(packed.parent.parent / "faces"), str(target), "--digests"]) == 0
    assert target.with_suffix(".lst").exists() and target.with_suffix(".crc").exists()
    assert shuffle([str(packed), str(target), "--overwrite"]) == 0
    assert sorted(path.name for path in target.parent.iterdir()) == ["property", "train.idx", "train.rec"]


@pytest.mark.parametrize("name", [".convert", ".unpack"])
def test_a_folder_under_way_is_called_unfinished_by_all_who_read_it(
    name: str, packed: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert unpack([str(packed), str(out)]) == 0
    (out / name).mkdir()
    (out / name / "settings.json").write_text("{}")
    for command in (
        lambda: convert([str(out), str(tmp_path / "x"), "--to", "sequential"]),
        lambda: pack([str(out), str(tmp_path / "x")]),
        lambda: pack([str(out / "images.lst"), str(tmp_path / "x")]),
    ):
        assert command() == 1
        assert "out: is unfinished: " in _error(capsys)


def test_a_part_of_a_set_of_shards_is_called_unfinished(packed: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert convert([str(packed), str(out), "--to", "webdataset", "--shard-images", "4"]) == 0
    (out / "shard-000001.tar").unlink()
    assert convert([str(out), str(tmp_path / "x"), "--to", "sequential"]) == 1
    assert "1 shard like 'shard-000001.tar' are not as manifest.json says" in _error(capsys)
    (out / "manifest.json").unlink()
    assert convert([str(out), str(tmp_path / "x"), "--to", "sequential"]) == 0
