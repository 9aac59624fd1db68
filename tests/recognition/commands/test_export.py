"""The command: what it prints, what it refuses in one line, and its files where a model is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("onnxruntime", reason="make export-tools installs onnxruntime")
pytest.importorskip("onnx", reason="make export-tools installs onnx")

from recognition.backbones import build_backbone
from recognition.backbones.fresh import set_batch_norms
from recognition.backbones.weights import load_backbone, save_backbone
from recognition.commands import embed_faces, export, verify
from recognition.embedding.store import read_embeddings
from recognition.export.parity import drawn_faces
from recognition.formats.pairs_bin import write_pairs
from recognition.images.codec import encode_jpeg
from recognition.images.preprocess import to_network
from tests.helpers.foreign_onnx import SIDE, Foreign


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights, pairs and faces of four people."""
    folder = tmp_path_factory.mktemp("export")
    torch.manual_seed(0)
    module = build_backbone("tiny", embedding_size=32)
    faces = drawn_faces(24, 112)
    set_batch_norms(module, to_network(torch.from_numpy(faces)))
    save_backbone(module.eval(), folder / "model.pt")
    write_pairs(folder / "pairs.bin", [encode_jpeg(face) for face in faces], [True, False] * 6)
    for number, face in enumerate(faces[:12]):
        path = folder / "faces" / f"p{number % 4}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_jpeg(face))
    return folder


BAD = [
    ("model.pt model.pt", "ends in '.pt'; expected .onnx, .ncnn, .pt2; name it so"),
    ("model.pt there.onnx", "there.onnx: exists already; expected a new path; pass --overwrite to replace it"),
    ("model.pt out.ncnn", "out.ncnn.bin: exists already"),
    (
        "nowhere out.onnx",
        "nowhere: not found; expected a run folder, a checkpoint, or a .safetensors, .pt or .pth file",
    ),
    ("there.onnx out.onnx", "is an .onnx file already; expected a run folder or weights"),
    ("model.pt out.onnx --precision int8", "no images to take its ranges from; expected your faces; give --faces"),
    ("model.pt out.onnx --faces faces", "--faces: a file in fp32 needs none"),
    ("model.pt out.onnx --precision int8 --faces faces --image-size 110", "112 x 112 pixels; expected 110 x 110"),
    ("model.pt out.pt2 --pairs pairs.bin", "--pairs, --faces and --opset are for .onnx files"),
    ("model.pt out.pt2 --precision fp16", "--precision fp16: .pt2 files are not written in it; expected .onnx"),
    ("model.pt new.ncnn --precision int8", "--precision int8: .ncnn files are not written in it"),
    ("model.pt out.onnx --pairs nowhere.bin", "nowhere.bin: cannot be read"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[words for words, _ in BAD])
def test_a_bad_request_is_one_line_and_leaves_nothing(
    words: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    for name in ("there.onnx", "out.ncnn.bin"):
        Path(name).write_bytes(b"here before")
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert export.main([*words.split(), "--quiet"]) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if "nothing says the size" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("export: error: ") and message in lines[0]
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_what_was_exported_takes_the_place_of_the_weights(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxscript", reason="make export-tools installs onnxscript")
    weights, target, pairs = folder / "model.pt", tmp_path / "out.onnx", folder / "pairs.bin"
    assert export.main([str(weights), str(target), "--pairs", str(pairs), "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    facts = load_backbone(weights).facts
    assert (report["network"], report["image_size"], report["opset"]) == ("tiny", 112, 18)
    assert report["model_fingerprint"] == facts.fingerprint
    assert report["least_cosine"] >= 0.99999
    assert report["bytes"] == target.stat().st_size
    values = report["accuracy"]["pairs"]
    found = {}
    for model in (weights, target):
        assert verify.main([str(model), str(pairs), "--json", "--quiet", "--baselines"]) == 0
        found[model] = json.loads(capsys.readouterr().out)
        out = str(tmp_path / f"e_{model.name}")
        assert embed_faces.main([str(folder / "faces"), out, "--model", str(model), "--quiet"]) == 0
        capsys.readouterr()
    theirs, ours = found[weights], found[target]
    assert values == {"before": theirs["results"][0]["accuracy"], "after": ours["results"][0]["accuracy"]}
    assert [result["method"] for result in ours["results"]] == [result["method"] for result in theirs["results"]]
    assert (ours["model_fingerprint"], ours["image_size"], ours["alignment"]) == (facts.fingerprint, 112, "arcface")
    vectors, expected = (read_embeddings(tmp_path / name).vectors for name in ("e_out.onnx", "e_model.pt"))
    # Float32 sums in another order.
    assert np.abs(vectors - expected).max() <= 1e-3 * np.abs(expected).max()


@pytest.fixture
def foreign_pairs(tmp_path: Path) -> Path:
    images = np.random.default_rng(0).integers(0, 256, (24, SIDE, SIDE, 3), np.uint8)
    write_pairs(tmp_path / "noise.bin", [encode_jpeg(image) for image in images], [True, False] * 6)
    return tmp_path / "noise.bin"


def test_verify_takes_a_stranger_s_file_and_says_what_it_is(
    foreign_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Foreign("theirs", before=[("Sub", 127.5), ("Mul", 1 / 128)]).write(tmp_path / "theirs.onnx")
    assert verify.main([str(path), str(foreign_pairs), "--json", "--quiet", "--baselines"]) == 0
    found = capsys.readouterr()
    report = json.loads(found.out)
    assert (report["network"], report["image_size"], report["device"]) == (None, SIDE, "cpu")
    assert report["num_images"] == 24, "counted as for weights"
    assert [result["method"] for result in report["results"]] == ["model", "raw pixels", "color histogram"]
    assert "the baseline of an untrained one is left out" in found.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--precision bf16", "has its precision inside"),
        ("--network r50", "an .onnx file holds its network"),
        ("--image-size 112", "its input says images of 16 pixels; --image-size asks for 112"),
        ("--mean 1", "--mean: given without --std"),
    ],
)
def test_verify_refuses_flags_that_a_file_answers(
    flags: str, message: str, foreign_pairs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = Foreign("theirs").write(tmp_path / "theirs.onnx")
    assert verify.main([str(path), str(foreign_pairs), *flags.split(), "--quiet"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and message in lines[0]


def test_strangers_that_agree_earn_a_warning(
    foreign_pairs: Path, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Bytes of 0..255 are asked for and get another division: almost one number for every pixel.
    right = Foreign("theirs", ("n", 3, 112, 112)).write(tmp_path / "right.onnx")
    collapsed = ["--mean", "0", "--std", "1"]
    shifted = Foreign("theirs", ("n", 3, 112, 112), before=[("Div", 255.0), ("Add", 60.0)]).write(
        tmp_path / "wrong.onnx"
    )
    for path, flags, warns in ((right, [], False), (shifted, collapsed, True)):
        out = str(tmp_path / f"e_{path.stem}")
        assert embed_faces.main([str(folder / "faces"), out, "--model", str(path), *flags, "--quiet"]) == 0
        assert ("strangers agree with a cosine of" in capsys.readouterr().err) is warns
    assert verify.main([str(shifted), str(folder / "pairs.bin"), *collapsed, "--quiet"]) == 0
    assert "pairs: strangers agree" in capsys.readouterr().err
