"""verify on lists and folders, several models, stored embeddings, torchrun, and what it warns of."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.commands.embed_faces import main as embed_faces
from recognition.commands.pack_bin import main as pack_bin
from recognition.commands.unpack_bin import main as unpack_bin
from recognition.commands.verify import check_set, main
from recognition.detection.alignment import ARCFACE_TEMPLATE, template_name
from recognition.detection.crop_on_the_fly import PhotoReader
from recognition.detection.faces import Faces, no_faces
from recognition.distributed.world import World
from recognition.formats.model_facts import ModelFacts
from recognition.formats.pairs_bin import read_pairs, write_pairs
from recognition.images.codec import decode_rgb, encode_jpeg
from recognition.verification.color_check import blue_warning
from recognition.verification.judged_models import StoredModel
from recognition.verification.protocols import open_pair_set
from tests.helpers.places import ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, reddish pictures of twelve people with blanks in their names, a list and its .bin."""
    root = tmp_path_factory.mktemp("more")
    for seed, name in ((3, "run"), (4, "other")):
        torch.manual_seed(seed)
        (root / name).mkdir()
        torch.save(build_backbone("tiny", embedding_size=16).state_dict(), root / name / "model.pt")
    rng = np.random.default_rng(0)
    lines = []
    for person in range(12):
        first = rng.integers(0, 200, (7, 7, 3))
        for number in (1, 2):
            rgb = np.kron(first + rng.integers(0, 40, first.shape), np.ones((16, 16, 1)))
            rgb[..., 0] = np.clip(rgb[..., 2] + 30, 0, 255)
            path = root / "faces" / f"p {person:02d}" / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_jpeg(rgb.astype(np.uint8)))
        lines += [
            f"p {person:02d}/1.jpg\tp {person:02d}/2.jpg\t1",
            f"p {person:02d}/1.jpg\tp {(person + 1) % 12:02d}/2.jpg\t0",
        ]
    (root / "pairs.txt").write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    assert pack_bin([str(root / "pairs.txt"), str(root / "faces"), str(root / "set.bin"), "--quiet"]) == 0
    return root


def run(*args: object) -> int:
    return main([*map(str, args), "--quiet", "--device", "cpu"])


def results(capsys: pytest.CaptureFixture[str]) -> list[dict]:  # type: ignore[type-arg]
    return json.loads(capsys.readouterr().out)["results"]


def test_a_list_with_its_folder_gives_what_its_bin_gives(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for arguments in (("set.bin",), ("pairs.txt", "--images", made / "faces")):
        capsys.readouterr()
        assert run(made / "run", made / arguments[0], *arguments[1:], "--json") == 0
        (entry,) = results(capsys)
        found.append({name: value for name, value in entry.items() if name not in ("set", "sha256")})
    assert found[0] == found[1] and found[0]["num_people"] == 12


def test_stored_embeddings_give_what_the_model_gives(
    made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for source, name in ((made / "faces", "faces"), (made / "set.bin", "set"), (made / "faces", "others")):
        model = made / ("other" if name == "others" else "run")
        assert (
            embed_faces([str(source), str(tmp_path / name), "--model", str(model), "--quiet", "--device", "cpu"]) == 0
        )
    capsys.readouterr()
    found = []
    for arguments in ((made / "run",), (tmp_path / "faces",), (tmp_path / "set",)):
        assert run(*arguments, made / "set.bin", "--json") == 0
        found.append(results(capsys)[0])
    assert found[0]["accuracy"] == found[1]["accuracy"] == found[2]["accuracy"]
    assert found[0]["auc"] == found[1]["auc"]
    assert run(made / "run", made / "set.bin", "--embeddings", tmp_path / "faces", "--json") == 0
    assert results(capsys)[0]["auc"] == found[0]["auc"]
    assert run(made / "run", made / "set.bin", "--embeddings", tmp_path / "others") == 1
    error = capsys.readouterr().err
    assert "others: embeddings of the model " in error and "embed again with it" in error and error.count("\n") == 1
    np.save(tmp_path / "faces" / "embeddings.npy", np.full((24, 16), np.nan, np.float32))
    assert run(tmp_path / "faces", made / "set.bin") == 1
    assert "set.bin: 48 of 48 embeddings are not finite" in capsys.readouterr().err


def test_models_and_sets_share_a_table_with_the_means(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(made / "half.bin", (pairs := read_pairs(made / "set.bin")).images[:40], pairs.is_same[:20])
    capsys.readouterr()
    assert run(made / "run", made / "set.bin", made / "half.bin", "--also", made / "other") == 0
    out = capsys.readouterr().out
    table = [line.split()[:2] for line in out.splitlines()]
    for model in ("run", "other"):
        for name in ("set", "half", "mean"):
            assert [str(made / model), name] in table
    assert "‡ no interval: nobody says whom the pictures show" in out, "half.bin has no .json"
    assert "† no interval: fewer than 10 pairs of different people" in out
    assert run(made / "run", made / "set.bin", made / "half.bin", "--also", made / "other", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert [each["model"] for each in report["models"]] == [str(made / "run"), str(made / "other")]
    mean = np.mean([entry["accuracy"] for entry in report["results"][:2]])
    assert f"{mean:.4f}" in next(line for line in out.splitlines() if line.split()[:2] == [str(made / "run"), "mean"])


@pytest.mark.slow
def test_ranks_share_the_pictures_and_one_reports(made: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "eval/verify.py"]
    arguments = [str(made / "run"), str(made / "set.bin"), "--json", "--quiet", "--device", "cpu"]
    done = subprocess.run([*command, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert main(arguments) == 0
    alone, shared = json.loads(capsys.readouterr().out)["results"], json.loads(done.stdout)["results"]
    assert [entry["accuracy"] for entry in shared] == [entry["accuracy"] for entry in alone]
    assert shared[0]["auc"] == pytest.approx(alone[0]["auc"], abs=1e-6)


def test_bgr_is_noticed_by_the_color_of_skin(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = read_pairs(made / "set.bin")
    swapped = [encode_jpeg(decode_rgb(image, place="x")[..., ::-1]) for image in pairs.images]
    write_pairs(tmp_path / "bgr.bin", swapped, pairs.is_same)
    gray = [encode_jpeg(np.repeat(decode_rgb(image, place="x")[..., :1], 3, axis=2)) for image in pairs.images]
    write_pairs(tmp_path / "gray.bin", gray, pairs.is_same)
    assert blue_warning(open_pair_set(made / "set.bin")) is None
    assert blue_warning(open_pair_set(tmp_path / "gray.bin")) is None
    assert "24 of 24 colored pictures are more blue than red" in str(blue_warning(open_pair_set(tmp_path / "bgr.bin")))
    capsys.readouterr()
    assert main([str(made / "run"), str(tmp_path / "bgr.bin"), "--check-color", "--device", "cpu"]) == 0
    error = capsys.readouterr().err
    assert "they seem to hold BGR" in error and "with red and blue exchanged: " in error


def test_another_alignment_than_the_model_s_is_named(made: Path, caplog: pytest.LogCaptureFixture) -> None:
    world = World(0, 1, 0, torch.device("cpu"))
    model = StoredModel("m", ModelFacts(None, alignment="arcface"), "tiny", {}, np.zeros((0, 4)))
    for points, is_told in ((ARCFACE_TEMPLATE, False), (ARCFACE_TEMPLATE + 8, True)):
        caplog.clear()
        pair_set = open_pair_set(made / "set.bin")
        about = replace(pair_set.about, alignment={"template": points.tolist()})
        check_set(model, replace(pair_set, about=about), world)
        assert ("were aligned to 'another' points, the model's to 'arcface'" in caplog.text) == is_told
    assert template_name(ARCFACE_TEMPLATE.tolist()) == "arcface"
    assert template_name((ARCFACE_TEMPLATE + 8).tolist()) == "another"
    assert template_name("center") == template_name(None) == template_name([[1, 2], [3]]) == "another"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run",), "expected MODEL and at least one SET, or --from-scores"),
        (("run", "pairs.txt"), "pairs.txt: is no .bin; expected --images for a list of pairs"),
        (("run", "set.bin", "--detector", "mtcnn"), "--detector: is for the photos of --images"),
        (("run", "pairs.txt", "--images", "run"), "24 of 24 images are missing: p 00/1.jpg, "),
        (("run", "set.bin", "--also", "other", "--scores", "s.tsv"), "holds one model's scores of one set"),
        (("run", "set.bin", "--scores", "set.bin"), "set.bin: exists already"),
        (("run", "set.bin", "--groups", "pairs.txt"), "pairs.txt:1: found 'p 00/1.jpg\\tp 00/2.jpg\\t1'; expected"),
    ],
)
def test_a_bad_request_is_one_line(
    made: Path, arguments: tuple[str, ...], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [made / each if (made / each).exists() else each for each in arguments]
    assert run(*files) == 1
    error = capsys.readouterr().err
    assert expected in error and error.count("\n") == 1


def test_pictures_come_out_of_a_bin_as_they_went_in(made: Path, tmp_path: Path) -> None:
    assert unpack_bin([str(made / "set.bin"), str(tmp_path / "out"), "--quiet"]) == 0
    assert (tmp_path / "out/pictures/p 03/2.jpg").read_bytes() == (made / "faces/p 03/2.jpg").read_bytes()
    again = [str(tmp_path / "out/pairs.txt"), str(tmp_path / "out/pictures"), str(tmp_path / "again.bin"), "--quiet"]
    assert pack_bin(again) == 0
    assert (tmp_path / "again.bin").read_bytes() == (made / "set.bin").read_bytes()
    (tmp_path / "plain.bin").write_bytes((made / "set.bin").read_bytes())
    assert unpack_bin([str(tmp_path / "plain.bin"), str(tmp_path / "numbered"), "--quiet"]) == 0
    assert len(list((tmp_path / "numbered/pictures").iterdir())) == 24
    assert (tmp_path / "numbered/pairs.txt").read_text().startswith("000000.jpg\t000001.jpg\t1\n")


class OneFace:
    """A detector that finds its one face, or none in a dark photo."""

    def detect(self, image_rgb: np.ndarray) -> Faces:
        if not image_rgb.any():
            return no_faces()
        points = np.array([[[30, 40], [60, 40], [45, 60], [32, 75], [58, 75]]], np.float32)
        return Faces(np.array([[20, 20, 70, 90]], np.float32), points, np.ones(1, np.float32))


def test_photos_are_aligned_on_the_fly_and_those_without_a_face_counted(tmp_path: Path) -> None:
    photo = np.zeros((120, 160, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "dark.png"), photo)
    photo[58:63, 43:48] = 255  # the tip of the nose
    cv2.imwrite(str(tmp_path / "face.png"), photo)
    reader = PhotoReader(OneFace(), 112)
    crop = decode_rgb(reader(tmp_path / "face.png"), place="x")
    assert crop.shape == (112, 112, 3)
    bright = np.argwhere(crop.sum(2) > 300)
    assert np.abs(bright.mean(0) - (71.7, 56.0)).max() < 3, "the nose is where the template has it"
    assert decode_rgb(reader(tmp_path / "dark.png"), place="x").shape == (112, 112, 3)
    assert reader.without_face == [tmp_path / "dark.png"]
