import json
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.align_landmarks import main, people_of_folds
from recognition.commands.make_faces import FaceSet, make_faces
from recognition.detection.alignment import align
from recognition.images.codec import decode_rgb
from tests.helpers.places import LFW, needs_photos


@pytest.fixture
def faces(tmp_path) -> Path:
    make_faces(FaceSet(0, 3, 2, size=150), tmp_path / "faces")
    return tmp_path / "faces"


def run(faces: Path, *flags: str) -> int:
    return main([str(faces), str(faces / "landmarks5.txt"), str(faces.parent / "out"), "--quiet", *flags])


def test_every_listed_photo_is_aligned_under_its_own_path(faces, capsys):
    assert run(faces) == 0
    assert capsys.readouterr().out.startswith("aligned 6 images, 3 identities, 0 not chosen in ")
    name, *numbers = (faces / "landmarks5.txt").read_text().splitlines()[3].split("\t")
    photo = decode_rgb((faces / name).read_bytes(), place=name)
    expected = align(photo, np.array(numbers, float).reshape(5, 2))
    found = decode_rgb((faces.parent / "out" / name).read_bytes(), place=name)
    assert found.shape == (112, 112, 3)
    assert np.abs(found.astype(int) - expected).mean() < 4


def test_landmarks_of_another_scale_give_the_same_face(faces):
    assert run(faces, "--size", "64") == 0
    lines = (faces / "landmarks5.txt").read_text().splitlines()
    doubled = faces.parent / "doubled.txt"
    doubled.write_text(
        "".join(
            "\t".join([name, *(f"{2 * float(number):.2f}" for number in numbers)]) + "\n"
            for name, *numbers in (line.split("\t") for line in lines)
        )
    )
    argv = [str(faces), str(doubled), str(faces.parent / "two"), "--quiet", "--landmark-scale", "0.5", "--size", "64"]
    assert main(argv) == 0
    name = lines[0].split("\t")[0]
    assert (faces.parent / "two" / name).read_bytes() == (faces.parent / "out" / name).read_bytes()


def test_people_are_chosen_by_the_folds_they_occur_in(faces, capsys):
    pairs = faces.parent / "pairs.txt"
    pairs.write_text("2 1\np000000 1 2\np000000 1 p000001 1\np000002 1 2\np000002 1 nobody 2\n")
    assert people_of_folds(pairs, "2") == {"p000002", "nobody"}
    assert run(faces, "--pairs", str(pairs), "--folds", "1", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["num_images"], found["num_identities"], found["num_not_chosen"]) == (4, 2, 2)
    assert sorted(path.name for path in (faces.parent / "out").iterdir()) == ["p000000", "p000001"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg 1 2 3", "landmarks5.txt:1: found 'a.jpg 1 2 3'; expected `path x1 y1 ... x5 y5`"),
        ("a.jpg 1 2 3 4 5 6 7 8 9 x", "expected `path x1 y1"),
        ("a.jpg 1 1 1 1 1 1 1 1 1 1", "the landmarks of 'a.jpg' span no face"),
        ("a.jpg 1 1 1 1 1 1 1 1 1 nan", "span no face"),
        ("../a.jpg 1 2 3 4 5 6 7 8 9 10", "leaves the folder of photos"),
        ("a.jpg 1 2 3 4 5 6 7 8 9 10", "a.jpg: cannot be read (No such file"),
        ("p000000 1 2 3 4 5 6 7 8 9 10", "p000000: cannot be read (Is a directory"),
        ("", "lists no photo"),
    ],
)
def test_bad_landmarks_end_in_one_line_and_leave_nothing(faces, capsys, line, message):
    (faces / "landmarks5.txt").write_text(line + "\n")
    assert run(faces) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert [path.name for path in faces.parent.iterdir()] == ["faces"]


def test_an_existing_folder_is_refused(faces, capsys):
    (faces.parent / "out").mkdir()
    assert run(faces) == 1
    assert "out: exists already; expected a new folder" in capsys.readouterr().err


def test_folds_without_pairs_are_refused(faces, capsys):
    assert run(faces, "--folds", "1") == 1
    assert "add --pairs" in capsys.readouterr().err


@pytest.mark.slow
@needs_photos(LFW)
def test_real_lfw_splits_into_people_of_folds_1_to_4_and_of_fold_5(tmp_path, capsys):
    counts = []
    for folds in ("1-4", "5"):
        argv = [str(LFW / "images"), str(LFW / "landmarks5.txt"), str(tmp_path / folds), "--landmark-scale", "0.6"]
        assert main([*argv, "--pairs", str(LFW / "pairs.txt"), "--folds", folds, "--json", "--quiet"]) == 0
        counts.append(json.loads(capsys.readouterr().out))
    lines = (LFW / "pairs.txt").read_text().splitlines()[1:]
    for folds, rows, found in (("1-4", lines[:2400], counts[0]), ("5", lines[2400:], counts[1])):
        people = {row.split()[0] for row in rows} | {row.split()[2] for row in rows if len(row.split()) == 4}
        assert {path.name for path in (tmp_path / folds).iterdir()} == people
        assert found["num_identities"] == len(people)
        assert found["num_images"] == sum(len(list((LFW / "images" / name).iterdir())) for name in people)
    assert not {path.name for path in (tmp_path / "1-4").iterdir()} & {path.name for path in (tmp_path / "5").iterdir()}
