import json
from pathlib import Path

import numpy as np
import pytest

from recognition.commands.align_landmarks import main, people_of_folds
from recognition.commands.make_faces import FaceSet, make_faces
from recognition.detection.alignment import align
from recognition.detection.landmark_aligner import LandmarkAligner
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
    assert sorted(path.name for path in (faces.parent / "out").iterdir() if path.is_dir()) == ["p000000", "p000001"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a.jpg 1 2 3", "landmarks5.txt:1: found 'a.jpg 1 2 3'; expected `path x1 y1 ... x5 y5`"),
        ("a.jpg 1 2 3 4 5 6 7 8 9 x", "expected `path x1 y1"),
        ("a.jpg 1 1 1 1 1 1 1 1 1 1", "the landmarks of 'a.jpg' span no face"),
        ("a.jpg 1 1 1 1 1 1 1 1 1 nan", "span no face"),
        ("../a.jpg 1 2 3 4 5 6 7 8 9 10", "leaves the folder of photos"),
        ("a.jpg 1 2 3 4 5 6 7 8 9 10", "a.jpg: no such file, nor any other of 1 photo looked for"),
        ("a.jpg 1 2 3 4 5 6 7 8 9 11\na.jpg 1 2 3 4 5 6 7 8 9 10", "txt:2: 'a.jpg' is also in line 1"),
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


def lines_of(faces: Path) -> list[str]:
    return (faces / "landmarks5.txt").read_text().splitlines()


def statuses(faces: Path) -> dict[str, str]:
    listed = (faces.parent / "out" / "landmarks.jsonl").read_text().splitlines()
    return {line["photo"]: line["status"] for line in map(json.loads, listed)}


def test_troubles_of_single_photos_are_statuses_and_the_list_is_named(faces, capsys):
    rows = [line.split("\t") for line in lines_of(faces)]
    rows += [[f"more/{number}.jpg", *row[1:]] for number, row in enumerate(rows)]
    for number, name in enumerate(row[0] for row in rows[6:11]):
        (faces / name).parent.mkdir(exist_ok=True)
        (faces / name).write_bytes((faces / rows[number][0]).read_bytes())
    rows[6][1:5] = [*rows[6][3:5], *rows[6][1:3]]  # the eyes exchanged
    rows[7][1:] = [str(float(number) + 70) for number in rows[7][1:]]
    rows[8][1:] = [str(float(number) / 8) for number in rows[8][1:]]
    encoded = (faces / rows[9][0]).read_bytes()
    (faces / rows[9][0]).write_bytes(encoded[: len(encoded) // 2] + b"\xff\xd9")
    (faces / "landmarks5.txt").write_text("\ufeff" + "\r\n".join("\t".join(row) for row in rows), newline="")
    assert run(faces) == 0
    out = capsys.readouterr().out
    assert out.startswith("aligned 7 images, 4 identities, 0 not chosen, 1 missing, 1 unreadable, 1 misfit, 1 outside,")
    assert "what is wrong with 5: " in out and "landmarks.jsonl" in out
    found = [statuses(faces)[row[0]] for row in rows[6:]]
    assert found == ["misfit", "outside", "too_small", "unreadable", "ok", "missing"]


def test_a_wrong_file_stops_before_anything_is_written(faces, capsys):
    rows = [line.split("\t") for line in lines_of(faces)]
    text = "".join("\t".join([name, *n[2:4], *n[0:2], *n[4:6], *n[8:10], *n[6:8]]) + "\n" for name, *n in rows)
    (faces / "landmarks5.txt").write_text(text)
    assert run(faces) == 1
    assert "fit no upright face" in (err := capsys.readouterr().err) and "likely left and right are exchanged" in err
    assert [path.name for path in faces.parent.iterdir()] == ["faces"]
    assert run(faces, "--max-misfit", "40") == 0


def test_a_killed_run_continues_and_any_number_of_workers_writes_the_same(faces, monkeypatch, capsys):
    assert run(faces, "--workers", "2") == 0
    expected = {path: path.read_bytes() for path in (faces.parent / "out").rglob("*.jpg")}
    (faces.parent / "out").rename(faces.parent / "first")
    calls = []
    whole = LandmarkAligner.__call__

    def dying(self, photo):
        calls.append(photo.path)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, photo)

    monkeypatch.setattr(LandmarkAligner, "__call__", dying)
    assert run(faces, "--workers", "1") == 130
    assert run(faces, "--workers", "1") == 0
    assert len(calls) == 4 + 3 and "3 from before" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in (faces.parent / "out").rglob("*.jpg")} == expected
    assert run(faces) == 1 and "holds crops already; expected a new OUT" in capsys.readouterr().err
    assert run(faces, "--overwrite") == 0


def test_people_of_no_pair_are_told_and_can_be_taken(faces, capsys, caplog):
    pairs = faces.parent / "pairs.txt"
    pairs.write_text("2 1\np000000 1 2\np000000 1 p000001 1\np000000 1 2\np000000 1 nobody 2\n")
    argv = [str(faces), str(faces / "landmarks5.txt"), str(faces.parent / "out"), "--pairs", str(pairs)]
    assert main([*argv, "--quiet"]) == 0
    captured = capsys.readouterr()
    assert captured.out.startswith("aligned 4 images, 2 identities, 2 not chosen")
    assert "1 identity with 2 photos are in no pair of any fold, and left out; --with-unpaired" in captured.err
    assert main([*argv, "--quiet", "--overwrite", "--with-unpaired"]) == 0
    assert capsys.readouterr().out.startswith("aligned 6 images, 3 identities, 0 not chosen")


def test_a_folder_that_holds_something_is_refused(faces, capsys):
    (faces.parent / "out").mkdir()
    (faces.parent / "out" / "a").touch()
    assert run(faces) == 1
    assert "out: is not empty; expected a new folder" in capsys.readouterr().err


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
        assert {path.name for path in (tmp_path / folds).iterdir() if path.is_dir()} == people
        assert found["num_identities"] == len(people)
        assert found["num_images"] == sum(len(list((LFW / "images" / name).iterdir())) for name in people)
    trained, tested = ({path.name for path in (tmp_path / folds).iterdir() if path.is_dir()} for folds in ("1-4", "5"))
    assert not trained & tested
