"""Pictures of the embedding space: points of named people, and files that TensorBoard's projector takes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from recognition.commands.plot_embedding import main
from recognition.embedding.projector import join_sprite, two_axes
from recognition.images.codec import encode_jpeg
from tests.helpers.people import people, write_set

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Five people, one of whom has a name that drawing libraries take for a formula."""
    root = tmp_path_factory.mktemp("plot")
    faces, embedded = write_set(root, people({"ann": 8, "bob": 7, "$\\frac{": 6, "dan": 2, "_eve": 9}))
    for number, path in enumerate(sorted(faces.rglob("*.jpg"))):
        path.write_bytes(encode_jpeg(np.full((56, 56, 3), 8 * number % 256, np.uint8)))
    return faces, embedded


@pytest.mark.slow
def test_the_most_photographed_people_are_drawn(made: tuple[Path, Path], tmp_path: Path) -> None:
    faces, embedded = made
    out = tmp_path / "plots"
    assert main([str(embedded), str(out), "--people", "4", "--faces", str(faces), "--quiet"]) == 0
    for name in ("pca.png", "tsne.png"):
        picture = cv2.imread(str(out / name))
        assert picture.shape[1] > 800 and picture.std() > 5
    projector = out / "projector"
    tensors = np.loadtxt(projector / "tensors.tsv", delimiter="\t")
    names = (projector / "metadata.tsv").read_text().splitlines()
    assert tensors.shape == (30, 64) and np.linalg.norm(tensors, axis=1) == pytest.approx(np.ones(30), abs=1e-4)
    assert sorted(set(names)) == ["$\\frac{", "_eve", "ann", "bob"]
    config = (projector / "projector_config.pbtxt").read_text()
    assert 'tensor_path: "tensors.tsv"' in config and "single_image_dim: 48" in config
    from google.protobuf import text_format
    from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

    parsed = text_format.Parse(config, ProjectorConfig())
    assert parsed.embeddings[0].sprite.image_path == "sprite.png"
    assert cv2.imread(str(projector / "sprite.png")).shape == (6 * 48, 6 * 48, 3)


def test_two_people_lie_apart_on_both_kinds_of_axes() -> None:
    vectors = np.stack(list(people({"a": 20, "b": 20}, noise=0.3).values()))
    for method in ("pca", "tsne"):
        points = two_axes(vectors, method)
        first, second = points[:20], points[20:]
        between = np.linalg.norm(first.mean(0) - second.mean(0))
        assert between > 2 * max(first.std(), second.std()), method
        assert np.array_equal(points, two_axes(vectors, method))


def test_a_sprite_is_square_and_holds_each_picture_in_its_place() -> None:
    pictures = [np.full((20, 20, 3), 40 * number, np.uint8) for number in range(5)]
    encoded, side = join_sprite(pictures)
    sprite = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    assert sprite.shape == (3 * side, 3 * side, 3)
    assert [int(sprite[side // 2 + side * (k // 3), side // 2 + side * (k % 3), 0]) for k in range(5)] == [
        0,
        40,
        80,
        120,
        160,
    ]


def test_bad_requests_are_one_line(made: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, embedded = made
    for argv, expected in (
        ([embedded, tmp_path / "out", "--names", "anne"], "nobody is called 'anne'; did you mean 'ann'?"),
        ([tmp_path, tmp_path / "out"], "holds no embeddings"),
        ([embedded, tmp_path / "out", "--names", "dan"], "2 embeddings; expected at least 3 to draw"),
        ([embedded, tmp_path / "out", "--faces", tmp_path], "cannot be read"),
        ([embedded, embedded], "exists already"),
    ):
        assert main([*map(str, argv), "--quiet"]) == 1
        error = capsys.readouterr().err
        assert expected in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
