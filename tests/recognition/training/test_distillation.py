"""A student learns where its teacher's embeddings point, and a teacher of other images is refused."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.backbones.architecture import Architecture
from recognition.backbones.metadata import ModelMetadata
from recognition.backbones.weights import load_backbone, save_model
from recognition.commands import embed_faces, export, pack_rec
from recognition.commands.train import main
from recognition.distributed.world import World
from recognition.images.codec import encode_jpeg
from recognition.training.interrupts import Stopped
from tests.helpers.runs import SMALL, fit, losses, make_trainer, snapshot, with_overrides
from tests.helpers.worlds import run_world

ALONE = World(0, 1, 0, torch.device("cpu"))
SIDE = 32


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A network of 24 numbers a face in a folder of its own."""
    torch.manual_seed(1)
    network = build_backbone("tiny", embedding_size=24, image_size=SIDE)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.add_(0.1 * torch.rand_like(buffer))
    (tmp_path / "net").mkdir()
    save_model(network, tmp_path / "net", ModelMetadata(Architecture("tiny", 24, SIDE)))
    return tmp_path / "net"


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    generator = np.random.default_rng(0)
    for person in "abcdefgh":
        (tmp_path / "faces" / person).mkdir(parents=True)
        for number in range(6):
            pixels = generator.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            (tmp_path / "faces" / person / f"{number}.jpg").write_bytes(encode_jpeg(pixels))
    assert pack_rec.main([str(tmp_path / "faces"), str(tmp_path / "set" / "train"), "--quiet"]) == 0
    return tmp_path / "set" / "train.rec"


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_targets_are_unit_rows_about_the_mean_of_the_teacher(teacher: Path, tmp_path: Path) -> None:
    trainer = make_trainer(ALONE, str(tmp_path / "run"), [f"teacher.model={teacher}", "train.batch_size=12"])
    vectors = np.load(tmp_path / "run" / "teacher" / "embeddings.npy").astype(np.float64)
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    centered = unit - unit.mean(axis=0)
    expected = centered / np.linalg.norm(centered, axis=1, keepdims=True)
    assert trainer.parts.distillation is not None
    found = trainer.parts.distillation.teacher.targets(torch.tensor([5, 0, 131]))
    np.testing.assert_allclose(found.numpy(), expected[[5, 0, 131]], rtol=0, atol=1e-6)  # they are float32


@pytest.mark.parametrize(("size", "has_projection"), [(16, True), (24, False)])
def test_the_loss_is_one_less_the_cosine_and_falls(
    size: int, has_projection: bool, teacher: Path, tmp_path: Path
) -> None:
    overrides = [
        f"teacher.model={teacher}",
        "head.weight=0",
        "head.scale=64",
        f"backbone.embedding_size={size}",
        "train.batch_size=12",
        "train.num_epoch=4",
        "optim.lr=0.1",
    ]
    trainer = make_trainer(ALONE, str(tmp_path / "run"), overrides)
    assert trainer.parts.distillation is not None
    assert (trainer.parts.distillation.student.projection is not None) == has_projection
    trainer.fit()
    rows = records(tmp_path / "run")
    assert all(row["loss"] == pytest.approx(1 - row["teacher_cosine"], abs=1e-6) for row in rows)
    assert rows[-1]["teacher_cosine"] > rows[0]["teacher_cosine"] + 0.1 and "top1" not in rows[0]
    model = load_backbone(tmp_path / "run")
    assert model.metadata is not None and model.architecture.embedding_size == size
    about = model.metadata.teacher
    assert about["mean"] == "subtracted" and about["network"] == "tiny" and about["embedding_size"] == 24
    assert about["model_fingerprint"] == load_backbone(teacher).facts.fingerprint


def test_the_head_stands_beside_the_teacher_by_its_weight(teacher: Path, tmp_path: Path) -> None:
    """The first step's losses of the two alone give that of both."""
    common = ["train.batch_size=12", "train.num_epoch=1", "optim.clip_norm=0"]
    of_head, _ = fit(ALONE, str(tmp_path / "head"), common)
    alone = [*common, f"teacher.model={teacher}", "head.weight=0", "head.scale=64"]
    of_teacher, _ = fit(ALONE, str(tmp_path / "teacher"), alone)
    both = [*common, f"teacher.model={teacher}", "head.weight=0.25", "teacher.weight=3"]
    found, _ = fit(ALONE, str(tmp_path / "both"), both)
    assert found[0] == pytest.approx(0.25 * of_head[0] + 3 * of_teacher[0], rel=1e-6)


def stopped_and_resumed(overrides: list[str], folder: str) -> dict[str, torch.Tensor]:
    trainer = make_trainer(ALONE, folder, overrides)
    take = trainer.train_step

    def take_and_stop(*args: Any) -> Any:
        result = take(*args)
        if trainer.state.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return result

    trainer.train_step = take_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        trainer.fit()
    trainer = make_trainer(ALONE, folder, [*overrides, "resume=true"])
    assert trainer.state.step == 3
    trainer.fit()
    assert trainer.parts.distillation is not None and trainer.parts.distillation.student.projection is not None
    return {**snapshot(trainer), "projection": trainer.parts.distillation.student.projection.weight.detach()}


def test_a_resumed_student_ends_with_the_bits_of_an_undisturbed_one(teacher: Path, tmp_path: Path) -> None:
    overrides = [f"teacher.model={teacher}", "head.weight=0.5", "train.batch_size=33", "train.num_epoch=2"]
    trainer = make_trainer(ALONE, str(tmp_path / "whole"), overrides)
    trainer.fit()
    whole = snapshot(trainer)
    parted = stopped_and_resumed(overrides, str(tmp_path / "parted"))
    assert all(torch.equal(parted[name], whole[name]) for name in whole)
    assert losses(str(tmp_path / "parted")) == losses(str(tmp_path / "whole"))


@pytest.mark.slow
def test_two_ranks_learn_what_one_does(teacher: Path, tmp_path: Path) -> None:
    common = [f"teacher.model={teacher}", "head.weight=0.5", "backbone.sync_bn=true", "train.num_epoch=1"]
    one, _ = fit(ALONE, str(tmp_path / "one"), [*common, "train.batch_size=12"])
    two = run_world(2, fit, str(tmp_path / "two"), [*common, "train.batch_size=6"])[0][0]
    np.testing.assert_allclose(two, one, rtol=1e-5)  # float32, sums in another order


def train(*overrides: str) -> int:
    settings = [
        setting for setting in SMALL if not setting.startswith(("data.num_classes", "data.num_image", "data.rec"))
    ]
    return main(["configs/base.yaml", *with_overrides(settings, "train.batch_size=8", *overrides)])


def curve_of(folder: Path, packed: Path, teacher: str) -> list[float]:
    """Return the losses of an epoch on the 48 pictures of 8 people in `packed`."""
    data = [f"data.rec={packed}", "data.num_image=48", "data.num_classes=8"]
    curve, _ = fit(ALONE, str(folder), [*data, "train.num_epoch=1", "train.batch_size=8", teacher])
    return curve


@pytest.mark.slow
def test_stored_embeddings_teach_as_the_network_does(teacher: Path, packed: Path, tmp_path: Path) -> None:
    stored = str(tmp_path / "stored")
    assert embed_faces.main([str(packed), stored, "--model", str(teacher), "--device", "cpu", "--quiet"]) == 0
    of_model = curve_of(tmp_path / "a", packed, f"teacher.model={teacher}")
    of_stored = curve_of(tmp_path / "b", packed, f"teacher.embeddings=[{stored}]")
    np.testing.assert_allclose(of_stored, of_model, rtol=1e-5)  # embedded in batches of other sizes


@pytest.mark.slow
def test_an_onnx_file_teaches_as_the_network_it_was_made_of(teacher: Path, packed: Path, tmp_path: Path) -> None:
    for package in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(package, reason="make export-tools installs it")
    file = tmp_path / "teacher.onnx"
    assert export.main([str(teacher), str(file), "--quiet"]) == 0
    of_model = curve_of(tmp_path / "a", packed, f"teacher.model={teacher}")
    of_file = curve_of(tmp_path / "b", packed, f"teacher.model={file}")
    np.testing.assert_allclose(of_file, of_model, rtol=1e-4)  # another runtime's float32, over six steps


@pytest.mark.slow
def test_a_student_of_smaller_images_learns_from_embeddings_of_the_larger(
    teacher: Path, packed: Path, tmp_path: Path
) -> None:
    stored = str(tmp_path / "stored")
    assert embed_faces.main([str(packed), stored, "--model", str(teacher), "--device", "cpu", "--quiet"]) == 0
    assert pack_rec.main([str(tmp_path / "faces"), str(tmp_path / "small" / "train"), "--size", "16", "--quiet"]) == 0
    settings = [f"data.rec={tmp_path / 'small'}", "data.image_size=16", f"teacher.embeddings=[{stored}]"]
    assert train(*settings, "train.num_epoch=1", f"output={tmp_path / 'run'}") == 0


@pytest.mark.slow
def test_photos_without_identities_teach(teacher: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for number, path in enumerate(sorted((tmp_path / "faces").rglob("*.jpg"))):
        path.rename(tmp_path / "photos" / f"{number}.jpg")
    alone = ["head.weight=0", "head.scale=64", f"teacher.model={teacher}", f"data.rec={tmp_path / 'photos'}"]
    assert train(*alone, "train.num_epoch=1", f"output={tmp_path / 'run'}") == 0
    assert records(tmp_path / "run")[-1]["step"] == 6


@pytest.mark.slow
@pytest.mark.parametrize(
    "wrong", ["other people", "other pictures", "fewer", "another size", "two teachers", "no folder"]
)
def test_a_teacher_that_does_not_fit_is_one_line(
    wrong: str, teacher: Path, packed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stored = tmp_path / "stored"
    assert embed_faces.main([str(packed), str(stored), "--model", str(teacher), "--device", "cpu", "--quiet"]) == 0
    keys = (stored / "keys.jsonl").read_text().splitlines()
    named, expected = [f"teacher.embeddings=[{stored}]"], ""
    if wrong == "other people":
        (stored / "keys.jsonl").write_text("\n".join([keys[0].replace(", 0]", ", 7]"), *keys[1:]]) + "\n")
        expected = "gives key 1 class 7, the set 0; expected embeddings of these images"
    elif wrong == "other pictures":
        about = json.loads((stored / "embeddings.json").read_text())
        about["thumbnails"] = dict.fromkeys(about["thumbnails"], "00" * 64)
        (stored / "embeddings.json").write_text(json.dumps(about))
        expected = "was made of another picture than"
    elif wrong == "fewer":
        (stored / "keys.jsonl").write_text("\n".join([*keys[:-1], '["999", 7]']) + "\n")
        expected = "has no embedding of '48' and 0 more of the 48 images"
    elif wrong == "another size":
        torch.manual_seed(1)
        other = build_backbone("tiny", embedding_size=24, image_size=48)
        (tmp_path / "other").mkdir()
        save_model(other, tmp_path / "other", ModelMetadata(Architecture("tiny", 24, 48)))
        named, expected = [f"teacher.model={tmp_path / 'other'}"], "takes images of 48 x 48 pixels; found 32 x 32"
    elif wrong == "two teachers":
        named += [f"teacher.model={teacher}"]
        expected = "found a model and teacher.embeddings, expected one of them"
    else:
        named, expected = [f"teacher.embeddings=[{tmp_path / 'nowhere'}]"], "holds no embeddings; expected the output"
    capsys.readouterr()
    assert train(f"data.rec={packed}", *named, f"output={tmp_path / 'run'}") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("train_v2: error: ") and expected in error
    assert not (tmp_path / "run" / "model.pt").exists()
