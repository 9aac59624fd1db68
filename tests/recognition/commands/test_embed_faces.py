"""embed_faces.py: rows in the order of the images, whatever divides the work and whenever it was killed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.backbones.weights import load_backbone, save_backbone
from recognition.commands.embed_faces import main
from recognition.embedding import store as embedding_store
from recognition.embedding.embedder import Embedder
from recognition.embedding.models import OnnxEmbedder, load_embedder
from recognition.embedding.store import EmbeddingStore, read_embeddings
from recognition.errors import CheckpointError, DataError
from recognition.images.codec import decode_rgb, encode_jpeg
from tests.helpers.onnx_bytes import onnx_model
from tests.helpers.places import ROOT

NUM = 150  # three blocks, the last one short


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 noise pictures of 7 people, and the weights of a small network."""
    root = tmp_path_factory.mktemp("faces")
    generator = np.random.default_rng(0)
    for i in range(NUM):
        path = root / "set" / f"p {i % 7}" / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(generator.integers(0, 256, (112, 112, 3), np.uint8)))
    torch.manual_seed(0)
    save_backbone(build_backbone("tiny", embedding_size=16), root / "model.pt")
    return root


@pytest.fixture(scope="module")
def expected(faces: Path) -> np.ndarray:
    paths = sorted((faces / "set").rglob("*.jpg"))
    images = np.stack([decode_rgb(path.read_bytes(), place=str(path)) for path in paths])
    return Embedder.load(faces / "model.pt").embed(images)


def _arguments(faces: Path, output: Path, *more: str) -> list[str]:
    return [str(faces / "set"), str(output), "--model", str(faces / "model.pt"), "--quiet", "--device", "cpu", *more]


@pytest.fixture(scope="module")
def alone(faces: Path) -> Path:
    """What one process makes of them."""
    assert main(_arguments(faces, faces / "alone")) == 0
    return faces / "alone"


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_rows_are_the_images_in_order(faces: Path, expected: np.ndarray, alone: Path) -> None:
    found = read_embeddings(alone)
    names = [str(path.relative_to(faces / "set")) for path in sorted((faces / "set").rglob("*.jpg"))]
    assert found.keys == names
    assert found.labels.tolist() == [int(name[2]) for name in names]
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5)
    assert sorted(_contents(alone)) == ["embeddings.json", "embeddings.npy", "keys.jsonl"]


def test_a_packed_set_is_called_by_its_keys(faces: Path, expected: np.ndarray, tmp_path: Path) -> None:
    pack = [sys.executable, "data_tools/pack_rec.py", str(faces / "set"), str(tmp_path / "train"), "--quiet"]
    assert subprocess.run(pack, cwd=ROOT).returncode == 0
    model = ["--model", str(faces / "model.pt"), "--quiet", "--device", "cpu"]
    assert main([str(tmp_path / "train.rec"), str(tmp_path / "out"), *model]) == 0
    found = read_embeddings(tmp_path / "out")
    assert found.keys == [str(key) for key in range(1, NUM + 1)]
    np.testing.assert_allclose(found.vectors, expected, rtol=1e-4, atol=1e-5)


def test_an_interrupted_run_does_only_what_is_missing(
    faces: Path, expected: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    write = EmbeddingStore.write

    def write_two(self: EmbeddingStore, block: int, vectors: np.ndarray) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(block)
        write(self, block, vectors)

    monkeypatch.setattr(EmbeddingStore, "write", write_two)
    assert main(_arguments(faces, tmp_path / "out")) == 130
    with pytest.raises(DataError, match="holds unfinished embeddings"):
        read_embeddings(tmp_path / "out")
    monkeypatch.setattr(EmbeddingStore, "write", write)
    assert EmbeddingStore(tmp_path / "out").missing == [2]
    assert main(_arguments(faces, tmp_path / "out", "--batch-size", "7")) == 0
    np.testing.assert_allclose(read_embeddings(tmp_path / "out").vectors, expected, rtol=1e-4, atol=1e-5)


def test_a_run_killed_while_publishing_ends_well(faces: Path, expected: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "out"
    assert main(_arguments(faces, output)) == 0
    work = output / ".embed"
    about = {
        "faces": str((faces / "set").resolve()),
        "model": str((faces / "model.pt").resolve()),
        **load_backbone(faces / "model.pt").facts.as_json(),
        "precision": "float32",
    }
    shutil.move(output / "embeddings.npy", tmp_path / "kept.npy")
    (output / "embeddings.json").unlink()
    store = EmbeddingStore.begin(output, NUM, 16, about)
    for block in store.missing:
        store.write(
            block,
            expected[embedding_store.block_range(NUM, block).start :][: len(embedding_store.block_range(NUM, block))],
        )
    shutil.move(work / "embeddings.npy", output / "embeddings.npy")  # killed here
    assert main(_arguments(faces, output)) == 0
    np.testing.assert_allclose(read_embeddings(output).vectors, expected, rtol=1e-4, atol=1e-5)
    assert not work.exists()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--nproc_per_node=2"]])
def test_several_processes_write_the_same_bytes(faces: Path, alone: Path, tmp_path: Path, launcher: list[str]) -> None:
    workers = [] if launcher else ["--workers", "2"]
    command = [sys.executable, *launcher, "data_tools/embed_faces.py", *_arguments(faces, tmp_path / "out", *workers)]
    assert subprocess.run(command, cwd=ROOT).returncode == 0
    assert _contents(tmp_path / "out") == _contents(alone)


def test_pictures_of_two_sizes_are_named(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "set").mkdir()
    for size in (112, 96):
        (tmp_path / "set" / f"{size}.jpg").write_bytes(encode_jpeg(np.zeros((size, size, 3), np.uint8)))
    arguments = [str(tmp_path / "set"), str(tmp_path / "out"), "--model", str(faces / "model.pt"), "--quiet"]
    assert main(arguments) == 1
    assert "112 x 112 pixels; expected squares of one size" in capsys.readouterr().err.replace("96 x 96", "112 x 112")


def test_finished_embeddings_are_not_replaced(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "embeddings.json").write_text("{}")
    assert main(_arguments(faces, tmp_path)) == 1
    assert "holds embeddings already; expected a new OUT; pass --overwrite to replace it" in capsys.readouterr().err


def test_an_onnx_file_embeds_an_image_and_its_mirror_image(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    generator = np.random.default_rng(3)
    weight = generator.normal(size=(3 * 8 * 8, 5)).astype(np.float32)
    model = onnx_model(
        [("Flatten", ["x"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])],
        inputs={"x": ["n", 3, 8, 8]},
        outputs={"y": ["n", 5]},
        weights={"w": weight},
    )
    (tmp_path / "net.onnx").write_bytes(model)
    images = generator.integers(0, 256, (70, 8, 8, 3), np.uint8)
    pixels = (images.astype(np.float64) / 127.5 - 1).transpose(0, 3, 1, 2)
    expected = (pixels.reshape(70, -1) + pixels[..., ::-1].reshape(70, -1)) @ weight
    embedder = load_embedder(str(tmp_path / "net.onnx"))
    assert isinstance(embedder, OnnxEmbedder)
    np.testing.assert_allclose(embedder.embed(images), expected, rtol=1e-3, atol=1e-4)
    with pytest.raises(CheckpointError, match="takes images of 8 pixels; found 9"):
        embedder.embed(np.zeros((1, 9, 9, 3), np.uint8))
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"junk\.onnx: cannot be read as ONNX"):
        load_embedder(str(tmp_path / "junk.onnx"))


def _spoiled(monkeypatch: pytest.MonkeyPatch, chosen: Callable[[np.ndarray], np.ndarray]) -> None:
    """Let the network give NaN for the pictures that `chosen` picks."""
    embed = Embedder.embed

    def spoiled(self: Embedder, images: np.ndarray) -> np.ndarray:
        found = embed(self, images)
        found[chosen(images), 3] = np.nan
        return found

    monkeypatch.setattr(Embedder, "embed", spoiled)


def test_pictures_without_a_finite_embedding_are_named_and_can_be_left_out(faces, alone, tmp_path, monkeypatch, capsys):
    whole = read_embeddings(alone)
    marks = np.array([decode_rgb((faces / "set" / key).read_bytes(), place="")[0, 0, 0] for key in whole.keys])
    bad = np.flatnonzero(marks > 245)
    assert 0 < len(bad) < 20
    _spoiled(monkeypatch, lambda images: images[:, 0, 0, 0] > 245)
    assert main(_arguments(faces, tmp_path / "out")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"the embeddings of {len(bad)} images of 150 are not finite ({whole.keys[bad[0]]}" in error
    assert "pass --skip-bad to leave them out" in error
    monkeypatch.setattr(EmbeddingStore, "write", lambda *_: pytest.fail("embedded again"))
    assert main(_arguments(faces, tmp_path / "out", "--skip-bad")) == 0
    assert f"{len(bad)} left out" in capsys.readouterr().out
    kept = read_embeddings(tmp_path / "out")
    good = np.setdiff1d(np.arange(150), bad)
    assert kept.keys == [whole.keys[i] for i in good]
    assert np.array_equal(kept.vectors, whole.vectors[good])
    assert np.array_equal(kept.labels, whole.labels[good])
    assert kept.about["num_images"] == len(good)


def test_a_model_that_gives_no_number_at_all_ends_at_once(faces, tmp_path, monkeypatch, capsys):
    _spoiled(monkeypatch, lambda images: np.ones(len(images), bool))
    assert main(_arguments(faces, tmp_path / "out", "--skip-bad")) == 1
    assert "model.pt: none of the first 64 embeddings is finite; expected numbers" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_readers_change_no_bit(faces: Path, alone: Path, tmp_path: Path, packed: bool) -> None:
    arguments = _arguments(faces, tmp_path / "out", "--readers", "2")
    if packed:
        pack = [sys.executable, "data_tools/pack_rec.py", str(faces / "set"), str(tmp_path / "train"), "--quiet"]
        assert subprocess.run(pack, cwd=ROOT).returncode == 0
        arguments[0] = str(tmp_path / "train.rec")
    assert main(arguments) == 0
    found, expected = (_contents(folder) for folder in (tmp_path / "out", alone))
    assert found["embeddings.npy"] == expected["embeddings.npy"]
    assert packed or found == expected


@pytest.mark.slow
def test_what_a_reader_cannot_use_is_named(faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for size in (112, 112, 96):
        path = tmp_path / "set" / f"{len(list(tmp_path.rglob('*.jpg')))}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encode_jpeg(np.zeros((size, size, 3), np.uint8)))
    arguments = _arguments(faces, tmp_path / "out", "--readers", "1")
    arguments[0] = str(tmp_path / "set")
    assert main(arguments) == 1
    assert "image '2.jpg': 96 x 96 pixels; expected squares of one size" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_precision_is_stored_and_a_store_has_one(faces, alone, tmp_path, monkeypatch, capsys):
    assert read_embeddings(alone).about["precision"] == "float32"
    assert main(_arguments(faces, tmp_path / "bf16", "--precision", "bf16")) == 0
    found, expected = read_embeddings(tmp_path / "bf16"), read_embeddings(alone)
    assert (found.about["precision"], found.vectors.dtype) == ("bf16", np.float32)
    assert not np.array_equal(found.vectors, expected.vectors)
    lengths = [np.linalg.norm(each.vectors, axis=1) for each in (found, expected)]
    cosines = np.einsum("nd,nd->n", found.vectors, expected.vectors) / (lengths[0] * lengths[1])
    assert cosines.min() > 0.999  # bf16 keeps 8 bits: each of a few layers is off by 2^-9 of what it sums, at random

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(EmbeddingStore, "publish", interrupted)
    assert main(_arguments(faces, tmp_path / "out")) == 130
    assert main(_arguments(faces, tmp_path / "out", "--precision", "bf16")) == 1
    assert "begun with other settings (precision 'float32', now 'bf16')" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--workers", "2", "--readers", "1"], "--readers 1: each of 2 --workers reads for itself; leave one out"),
        (["--model", "x.onnx", "--precision", "bf16"], "x.onnx: is computed in the precision of its file; --precision"),
        (["--model", "dlib", "--precision", "bf16"], "dlib: is computed in the precision of its file; --precision"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_a_line(faces, tmp_path, capsys, more, words):
    assert main(_arguments(faces, tmp_path / "out", *more)) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--readers", "-1"], "--readers: '-1' is not an integer of at least 0"),
        (["--precision", "fp8"], "invalid choice: 'fp8'"),
    ],
)
def test_values_that_cannot_be_are_refused(faces, tmp_path, capsys, more, words):
    with pytest.raises(SystemExit):
        main(_arguments(faces, tmp_path / "out", *more))
    assert words in capsys.readouterr().err.splitlines()[-1]
