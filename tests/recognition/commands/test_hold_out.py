"""hold_out.py: nobody set aside is trained on, not by a copy of a picture, nor under another name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.cleaning.linked_people import MOST_NAMES, Links
from recognition.commands import clean_faces, hold_out, pack_bin, pack_rec
from recognition.commands.make_faces import FaceSet, make_faces
from recognition.formats.class_names import read_class_names
from recognition.formats.image_list import parse_lst_line
from tests.helpers.people import person_vectors, write_embeddings

PEOPLE, PICTURES, ASIDE = 24, 4, 8
COPIED = [("p000000", "p000005"), ("p000003", "p000010")]
ONE_PERSON = ("p000007", "p000012")
PLANTED = [*COPIED, ONE_PERSON, ("p000002", "p000002b")]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with faces/ and embedded/: two pictures lie with two people each, one person has two names."""
    root = tmp_path_factory.mktemp("people")
    faces = root / "faces"
    make_faces(FaceSet(0, PEOPLE, PICTURES), faces)
    (first, second), (third, fourth) = COPIED
    rgb = cv2.imread(str(faces / first / f"{first}_0001.jpg"))
    cv2.imwrite(str(faces / second / "again.jpg"), rgb, [cv2.IMWRITE_JPEG_QUALITY, 60])
    rgb = cv2.imread(str(faces / third / f"{third}_0002.jpg"))
    cv2.imwrite(str(faces / fourth / "smaller.png"), cv2.resize(rgb, (80, 80), interpolation=cv2.INTER_AREA))
    shutil.copy(faces / "p000001/p000001_0001.jpg", faces / "p000001/twice.jpg")
    (faces / "p000002b").mkdir()
    shutil.copy(faces / "p000002/p000002_0001.jpg", faces / "p000002b/single.jpg")
    (faces / "p000999").mkdir()
    cv2.imwrite(str(faces / "p000999/single.png"), np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8))
    names = sorted(path.relative_to(faces).as_posix() for path in faces.glob("*/*"))
    center = {ONE_PERSON[1]: int(ONE_PERSON[0][1:]), "p000002b": 99}
    whose = [center.get(name.split("/")[0], int(name[1:7])) for name in names]
    vectors = [person_vectors(person, 1, seed=number)[0] for number, person in enumerate(whose)]
    write_embeddings(root / "embedded", names, np.stack(vectors))
    return root


def run(people: Path, output: Path, *flags: str, source: str = "faces") -> int:
    return hold_out.main([str(people / source), str(output), "--people", str(ASIDE), "--quiet", *flags])


def held(output: Path) -> set[str]:
    return set((output / "held_out.txt").read_text().split())


def trained(output: Path) -> dict[str, int]:
    """Return picture -> label of train.lst."""
    lines = (output / "train.lst").read_bytes().splitlines()
    return {name: label for label, name in (parse_lst_line(line, "") for line in lines)}


def leaks(output: Path, planted: Sequence[tuple[str, str]] = tuple(PLANTED)) -> list[tuple[str, str]]:
    """Return the planted pairs of names of which one is set aside and the other is trained on."""
    aside, staying = held(output), {name.split("/")[0] for name in trained(output)}
    assert not aside & staying
    return [(a, b) for a, b in planted if {a, b} & aside and {a, b} & staying]


def test_nothing_planted_leaks_in_twenty_draws(people: Path, tmp_path: Path) -> None:
    found, by_pictures_alone, both_aside = [], [], set()
    for seed in range(20):
        output = tmp_path / str(seed)
        assert run(people, output, "--embeddings", str(people / "embedded"), "--seed", str(seed)) == 0
        found += leaks(output)
        aside = held(output)
        both_aside |= {pair for pair in PLANTED if set(pair) <= aside}
        assert json.loads((output / "hold_out.json").read_text())["num_people_aside"] == ASIDE
        pairs = [line.split("\t") for line in (output / "pairs.txt").read_text().splitlines()]
        shown = {path for a, b, _ in pairs for path in (a, b)}
        assert {path.split("/")[0] for path in shown} <= aside and shown.isdisjoint(trained(output))
        for a, b, same in pairs:
            assert (a.split("/")[0] == b.split("/")[0]) == (same == "1")
            assert {a.split("/")[0], b.split("/")[0]} not in map(set, PLANTED)
            assert not {"p000001/p000001_0001.jpg", "p000001/twice.jpg"} <= shown
        assert run(people, tmp_path / f"bare{seed}", "--seed", str(seed)) == 0
        by_pictures_alone += leaks(tmp_path / f"bare{seed}")
    assert found == []
    assert both_aside == set(PLANTED), "every planted pair was set aside in some draw"
    assert set(by_pictures_alone) == {ONE_PERSON}, "pictures do not show two names of a person, embeddings do"


def test_what_is_set_aside_can_be_packed_and_is_in_no_packed_set(people: Path, tmp_path: Path) -> None:
    output = tmp_path / "split"
    assert run(people, output, "--embeddings", str(people / "embedded")) == 0
    root = str(people / "faces")
    flags = ["--root", root, "--size", "112", "--quiet"]
    assert pack_rec.main([str(output / "train.lst"), str(tmp_path / "packed/train"), *flags]) == 0
    names = read_class_names(tmp_path / "packed/train.names")
    labels = trained(output)
    assert {name: label for label, name in enumerate(names)} == {k.split("/")[0]: v for k, v in labels.items()}
    assert held(output).isdisjoint(names) and "p000999" in names, "one picture makes no pair"
    assert pack_bin.main([str(output / "pairs.txt"), root, str(tmp_path / "unseen.bin"), "--size", "112"]) == 0
    about = json.loads((tmp_path / "unseen.json").read_text())
    assert set(about["people"]) <= held(output)


def test_a_cleaned_list_is_split_by_what_cleaning_found(people: Path, tmp_path: Path) -> None:
    clean = [str(people / "faces"), str(tmp_path / "clean"), "--embeddings", str(people / "embedded"), "--quiet"]
    assert clean_faces.main(clean) == 0
    names = read_class_names(tmp_path / "clean/clean.names")
    assert ONE_PERSON[0] in names and ONE_PERSON[1] not in names, "cleaning merged the two"
    flags = ["--root", str(people / "faces")]
    for seed in range(4):
        output = tmp_path / str(seed)
        arguments = [str(tmp_path / "clean/clean.lst"), str(output), "--people", str(ASIDE), "--quiet", *flags]
        assert hold_out.main([*arguments, "--seed", str(seed)]) == 0
        sides = {ONE_PERSON[0] in held(output), *(not path.startswith(ONE_PERSON) for path in trained(output))}
        assert sides in ({True}, {False, True}) and not leaks(output)
        kept = {line.split("\t")[2] for line in (tmp_path / "clean/clean.lst").read_text().splitlines()}
        pairs = (output / "pairs.txt").read_text().splitlines()
        assert trained(output).keys() | {path for line in pairs for path in line.split("\t")[:2]} <= kept


def test_what_cannot_be_done_is_one_line(people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(source: Path, *flags: str) -> str:
        assert hold_out.main([str(source), str(tmp_path / "out"), "--quiet", *flags]) == 1
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    faces = people / "faces"
    assert "lower --people" in refused(faces, "--people", "24")
    assert "all of 23 groups" in refused(faces, "--people", "23")
    assert "lower --folds, or raise --people" in refused(faces, "--people", "3", "--folds", "2")
    assert "lower --pairs" in refused(faces, "--people", "4", "--pairs", "4000")
    assert "the folder of the .lst" not in refused(faces, "--people", "4", "--root", str(faces))
    alone = tmp_path / "alone"
    for name in ("a", "b", "c"):
        (alone / name).mkdir(parents=True)
        shutil.copy(faces / "p000001/twice.jpg", alone / name / "1.jpg")
    assert "0 of 1 group" in refused(alone, "--people", "1"), "one picture each, and the same"
    write_embeddings(tmp_path / "few", ["a/1.jpg", "b/1.jpg", "c/1.jpg"], np.eye(3, 64, dtype=np.float32))
    assert "leave --embeddings out" in refused(alone, "--people", "1", "--embeddings", str(tmp_path / "few"))
    assert "no embedding of" in refused(faces, "--people", "4", "--embeddings", str(tmp_path / "few"))
    (alone / "a/1.jpg").write_bytes(b"no picture")
    assert "1.jpg" in refused(alone, "--people", "1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").touch()
    assert hold_out.main([str(faces), str(tmp_path / "mine"), "--people", "4", "--overwrite"]) == 1
    assert "no earlier result" in capsys.readouterr().err and (tmp_path / "mine/notes.txt").exists()


def test_a_long_chain_of_links_is_one_group() -> None:
    links = Links()
    links.add("some", [(number, number + 1) for number in range(MOST_NAMES)])
    links.add("others", [(9, 7), (7, 9)])
    assert links.groups(10) == [[0, 1, 2, 3, 4], [5], [6], [7, 9], [8]]
    assert len(links.by_source["others"]) == 1
