import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.pack_bin import main
from recognition.formats.pair_list import parse_folds, read_pair_list
from recognition.formats.pairs_bin import read_pairs
from recognition.images.codec import decode_rgb, encode_jpeg
from tests.helpers.places import LFW, needs_photos

LFW_PAIRS = "2\t1\nann\t1\t2\nann\t1\tbob\t2\nbob\t1\t2\nbob\t1\tcid\t1\n"


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    for value, name in enumerate(("ann_0001", "ann_0002", "bob_0001", "bob_0002", "cid_0001")):
        path = folder / name[:3] / f"{name}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(np.full((20, 20, 3), 40 * value, np.uint8)))
    return folder


def pack(tmp_path: Path, images: Path, pairs: str, *flags: str) -> int:
    (tmp_path / "pairs.txt").write_text(pairs)
    return main([str(tmp_path / "pairs.txt"), str(images), str(tmp_path / "out.bin"), "--quiet", *flags])


def test_lfw_pairs_are_packed_byte_for_byte_in_order(tmp_path, images, capsys):
    assert pack(tmp_path, images, LFW_PAIRS) == 0
    names = ["ann_0001", "ann_0002", "ann_0001", "bob_0002", "bob_0001", "bob_0002", "bob_0001", "cid_0001"]
    expected = [(images / name[:3] / f"{name}.jpg").read_bytes() for name in names]
    # What arcface_torch's reader does with the file.
    assert pickle.loads((tmp_path / "out.bin").read_bytes()) == (expected, [True, False, True, False])
    assert capsys.readouterr().out.startswith("packed 4 pairs, 2 of them same, 5 images in ")


def test_lines_of_paths_and_a_label_are_packed(tmp_path, images):
    assert pack(tmp_path, images, "ann/ann_0001.jpg ann/ann_0002.jpg 1\nann/ann_0001.jpg\tcid/cid_0001.jpg\t0\n") == 0
    pairs = read_pairs(tmp_path / "out.bin")
    assert pairs.is_same.tolist() == [True, False]
    assert pairs.images[3] == (images / "cid" / "cid_0001.jpg").read_bytes()


def test_chosen_folds_are_packed_alone(tmp_path, images):
    assert pack(tmp_path, images, LFW_PAIRS, "--folds", "2") == 0
    pairs = read_pairs(tmp_path / "out.bin")
    assert pairs.images[0] == (images / "bob" / "bob_0001.jpg").read_bytes()
    assert len(pairs) == 2


def test_same_and_different_pairs_alternate_within_a_fold(tmp_path):
    # LFW lists a fold's same pairs first; a tenth of such a fold would be of one kind.
    same = "".join(f"ann\t{i}\t{i + 1}\n" for i in (1, 2, 3))
    different = "".join(f"ann\t{i}\tbob\t{i}\n" for i in (1, 2, 3))
    (tmp_path / "pairs.txt").write_text(f"2\t3\n{same}{different}{same}{different}")
    for folds in (None, [2]):
        pairs = read_pair_list(tmp_path / "pairs.txt", folds=folds)
        assert [pair.is_same for pair in pairs] == [True, False] * (6 if folds is None else 3)
        assert [pair.first for pair in pairs[:3]] == ["ann/ann_0001", "ann/ann_0001", "ann/ann_0002"]


@pytest.mark.parametrize("suffix", ["png", "JPG"])
def test_pictures_with_another_suffix_are_found_too(tmp_path, images, suffix):
    (images / "cid" / "cid_0001.jpg").rename(images / "cid" / f"cid_0001.{suffix}")
    assert pack(tmp_path, images, LFW_PAIRS) == 0


def test_lfw_names_may_hold_a_dot(tmp_path, images):
    (images / "Ann_Jr.").mkdir()
    for number in ("0001", "0002"):
        (images / "ann" / f"ann_{number}.jpg").rename(images / "Ann_Jr." / f"Ann_Jr._{number}.jpg")
    assert pack(tmp_path, images, "1\t1\nAnn_Jr.\t1\t2\nAnn_Jr.\t1\tbob\t2\n") == 0


def test_size_resizes_and_keeps_pictures_that_fit(tmp_path, images):
    assert pack(tmp_path, images, LFW_PAIRS, "--size", "10", "--json") == 0
    for image in read_pairs(tmp_path / "out.bin").images:
        assert decode_rgb(image, place="x").shape == (10, 10, 3)
    assert pack(tmp_path, images, LFW_PAIRS, "--size", "20", "--overwrite") == 0
    assert read_pairs(tmp_path / "out.bin").images[0] == (images / "ann" / "ann_0001.jpg").read_bytes()


def test_json_prints_one_object(tmp_path, images, capsys):
    assert pack(tmp_path, images, LFW_PAIRS, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_pairs"], found["num_same"], found["num_pictures"]) == (4, 2, 5)


def test_missing_images_are_named_and_counted_and_nothing_is_written(tmp_path, images, capsys):
    lines = "".join(f"ann/none_{i}.jpg cid/cid_0001.jpg 0\n" for i in range(12))
    assert pack(tmp_path, images, lines) == 1
    error = capsys.readouterr().err
    assert "12 of 13 images are missing: ann/none_0.jpg, ann/none_1.jpg" in error
    assert "ann/none_9.jpg, ...; expected" in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "pairs.txt"]


@pytest.mark.parametrize(
    ("pairs", "flags", "message"),
    [
        ("", [], "holds no pairs"),
        ("1 2\nann 1 2\n", [], "1 pairs; expected 2 x 2 in each of 1 folds"),
        ("1 1\nann 1 2\nann 1 bob\n", [], "pairs.txt:3: found 'ann 1 bob'; expected `name i j` or"),
        ("ann/a.jpg ann/b.jpg yes\n", [], "pairs.txt:1: found 'ann/a.jpg ann/b.jpg yes'; expected `path path 0|1`"),
        ("ann/a.jpg ann/b.jpg 1\n", ["--folds", "1"], "has no LFW header"),
        (LFW_PAIRS, ["--folds", "1-3"], "has folds 1 to 2; found [1, 2, 3]"),
        (LFW_PAIRS, ["--folds", "one"], "--folds one: 'one' is no fold"),
    ],
)
def test_bad_lists_end_in_one_line(tmp_path, images, capsys, pairs, flags, message):
    assert pack(tmp_path, images, pairs, *flags) == 1
    error = capsys.readouterr().err
    assert error.startswith("pack_bin: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out.bin").exists()


def test_a_text_file_named_jpg_is_named(tmp_path, images, capsys):
    (images / "cid" / "cid_0001.jpg").write_text("not a picture")
    assert pack(tmp_path, images, LFW_PAIRS) == 1
    assert "cid_0001.jpg: not an image" in capsys.readouterr().err


def test_an_existing_output_is_kept_without_overwrite(tmp_path, images, capsys):
    (tmp_path / "out.bin").write_text("mine")
    assert pack(tmp_path, images, LFW_PAIRS) == 1
    assert "exists already" in capsys.readouterr().err
    assert (tmp_path / "out.bin").read_text() == "mine"


def test_folds_are_spelled_as_numbers_and_ranges():
    assert parse_folds("5") == [5]
    assert parse_folds("1,3-5") == [1, 3, 4, 5]


@needs_photos(LFW)
def test_real_lfw_folds_hold_600_pairs_and_share_no_people():
    folds = [read_pair_list(LFW / "pairs.txt", folds=[fold]) for fold in range(1, 6)]
    assert [len(pairs) for pairs in folds] == [600] * 5
    people = [{name for pair in pairs for name in pair.people} for pairs in folds]
    assert not people[4] & set.union(*people[:4])


@needs_photos(LFW)
def test_real_lfw_fold_is_packed(tmp_path, capsys):
    argv = [str(LFW / "pairs.txt"), str(LFW / "images"), str(tmp_path / "lfw5.bin"), "--folds", "5", "--quiet"]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("packed 600 pairs, 300 of them same, ")
