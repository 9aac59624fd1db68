import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from recognition.commands.make_faces import LANDMARKS, FaceSet, main, make_faces
from recognition.detection.alignment import ARCFACE_TEMPLATE
from recognition.formats.pairs_bin import Pairs
from recognition.images.codec import decode_rgb
from recognition.rendering.face_person import HAIR_STYLES, make_person
from recognition.rendering.face_renderer import render
from recognition.verification.baselines import color_histogram_scores, raw_pixel_scores
from tests.helpers.places import ROOT
from tests.helpers.trees import files_below


def test_files_are_the_same_for_any_number_of_workers(tmp_path):
    faces = FaceSet(first_identity=0, num_identities=3, num_images=2, seed=7)
    make_faces(faces, tmp_path / "one", workers=1)
    make_faces(faces, tmp_path / "two", workers=2)
    assert files_below(tmp_path / "one") == files_below(tmp_path / "two")
    assert len(files_below(tmp_path / "one")) == 3 * 2 + 1


def test_a_person_depends_on_seed_and_number_only(tmp_path):
    make_faces(FaceSet(0, 4, 3), tmp_path / "many")
    make_faces(FaceSet(2, 1, 2), tmp_path / "one")
    make_faces(FaceSet(2, 1, 2, seed=1), tmp_path / "other")
    many, one, other = (files_below(tmp_path / name) for name in ("many", "one", "other"))
    pictures = sorted(name for name in one if name.endswith(".jpg"))
    assert pictures == ["p000002/p000002_0001.jpg", "p000002/p000002_0002.jpg"]
    assert all(many[name] == one[name] and one[name] != other[name] for name in pictures)


def test_landmarks_are_listed_for_every_picture_and_near_the_template(tmp_path):
    make_faces(FaceSet(0, 10, 4), tmp_path / "faces")
    lines = (tmp_path / "faces" / LANDMARKS).read_text().splitlines()
    names = [line.split("\t")[0] for line in lines]
    assert set(names) == set(files_below(tmp_path / "faces")) - {LANDMARKS}
    points = np.array([line.split("\t")[1:] for line in lines], float).reshape(-1, 5, 2)
    assert np.abs(points.mean(axis=0) - ARCFACE_TEMPLATE).max() < 8
    assert (points[:, 0, 0] < points[:, 1, 0]).all()
    assert (points[:, 3, 0] < points[:, 4, 0]).all()
    assert (points[:, :2, 1].max(axis=1) < points[:, 3:, 1].min(axis=1)).all()


def test_the_eye_landmarks_lie_in_the_eyes():
    """Painting the irises white must change pixels around the two landmarks, and nowhere else."""
    person = replace(make_person(0, 5), eye_height=0.14, iris_color=np.zeros(3))
    for picture in range(8):
        (dark, points), (white, _) = (
            render(replace(person, iris_color=np.full(3, tone)), np.random.default_rng(picture), 224)
            for tone in (0.0, 255.0)
        )
        change = np.abs(decode_rgb(dark, place="x").astype(int) - decode_rgb(white, place="x")).sum(axis=2)
        rows, columns = np.nonzero(change > 0.6 * change.max())
        nearest = np.hypot(columns[:, None] - points[:2, 0], rows[:, None] - points[:2, 1]).min(axis=1)
        assert nearest.max() < 16


def test_size_scales_picture_and_landmarks():
    person = make_person(0, 1)
    small, points = render(person, np.random.default_rng(3), 112)
    large, large_points = render(person, np.random.default_rng(3), 224)
    assert decode_rgb(small, place="x").shape == (112, 112, 3)
    assert decode_rgb(large, place="x").shape == (224, 224, 3)
    np.testing.assert_allclose(large_points, 2 * points)


@pytest.mark.parametrize("style", HAIR_STYLES)
@pytest.mark.parametrize("beard", ["none", "moustache", "goatee", "full"])
def test_every_style_renders_a_picture_with_contrast(style, beard):
    person = replace(make_person(0, 2), hair_style=style, beard=beard)
    encoded, _ = render(person, np.random.default_rng(0))
    assert decode_rgb(encoded, place="x").std() > 5


def test_pixels_and_colors_do_not_give_people_away():
    rng = np.random.default_rng(0)
    images, is_same = [], []
    for pair in range(200):
        same = pair % 2 == 0
        for number in (pair, pair if same else pair + 1000):
            images.append(render(make_person(0, number), rng)[0])
        is_same.append(same)
    pairs = Pairs(images, np.array(is_same))
    for scores in (raw_pixel_scores(pairs), color_histogram_scores(pairs)):
        # The best threshold in hindsight flatters the score.
        best = max(((scores > threshold) == pairs.is_same).mean() for threshold in scores)
        assert best < 0.72


def test_the_command_reports_counts_and_starts_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "data_tools" / "make_faces.py"), "out", "--identities", "2", "--images", "2"]
    done = subprocess.run([*command, "--workers", "2"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("rendered 4 images, 2 identities in ")
    done = subprocess.run([*command, "--json", "--overwrite"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["num_images"] == 4


def test_nothing_is_replaced_unasked(tmp_path, capsys):
    argv = [str(tmp_path / "faces"), "--identities", "1", "--images", "1", "--quiet"]
    assert main(argv) == 0
    assert main(argv) == 1
    assert "exists already; expected a new path; pass --overwrite" in capsys.readouterr().err
    assert main([*argv, "--overwrite", "--images", "2"]) == 0
    assert len(files_below(tmp_path / "faces")) == 3
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    assert main([str(tmp_path / "mine"), *argv[1:], "--overwrite"]) == 1
    assert "holds no landmarks5.txt" in capsys.readouterr().err
    assert (tmp_path / "mine" / "thesis.txt").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["faces", "mine"]


@pytest.mark.parametrize("size", ["31", "1025"])
def test_impossible_sizes_are_refused(tmp_path, capsys, size):
    assert main([str(tmp_path / "faces"), "--size", size]) == 1
    assert f"--size {size}: expected 32 to 1024 pixels" in capsys.readouterr().err


def test_an_unwritable_output_ends_in_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert main([str(tmp_path / "file" / "faces"), "--identities", "1", "--quiet"]) == 1
    error = capsys.readouterr().err
    assert "cannot be written" in error
    assert error.count("\n") == 1
