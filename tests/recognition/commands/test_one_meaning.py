"""Every command finds the same images and the same identities below a path."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recognition.commands import align_faces, convert_rec, embed_faces, make_pairs, pack_rec
from recognition.config.schema import DataConfig
from recognition.embedding import models
from recognition.embedding.store import read_embeddings
from recognition.feed.datasets import open_dataset
from recognition.formats.records import ImageRecords
from recognition.images.codec import encode_jpeg
from tests.helpers.kill_steps import FewFaces, FewNumbers

SIDE = 64
NEST = ["ann/1.jpg", "ann/2.jpg", "bob/x.jpg", "bob/2020/3.jpg", "bob/2020/4.jpg"]
Counts = tuple[int, int]


def write(root: Path, names: list[str]) -> Path:
    """Make images in which the stand-in for a detector sees one face."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encode_jpeg(np.full((SIDE, SIDE, 3), 110 + number, np.uint8)))
    return root


def pack(path: Path, out: Path) -> Counts:
    assert pack_rec.main([str(path), str(out / "train")]) == 0
    return len(ImageRecords(out)), ImageRecords(out).num_classes


def convert(path: Path, out: Path) -> Counts:
    assert convert_rec.main([str(path), str(out / "train"), "--to", "sequential"]) == 0
    return len(ImageRecords(out)), ImageRecords(out).num_classes


def train(path: Path, out: Path) -> Counts:
    dataset = open_dataset(DataConfig(rec=str(path), image_size=SIDE))
    assert [dataset[i][1] for i in range(len(dataset))] == sorted(dataset.labels().tolist())
    return len(dataset), dataset.num_classes


def embed(path: Path, out: Path) -> Counts:
    assert embed_faces.main([str(path), str(out), "--model", "dlib", "--device", "cpu"]) == 0
    found = read_embeddings(out)
    return len(found.keys), len(set(found.labels.tolist()))


def align(path: Path, out: Path) -> Counts:
    """Count the crops, and the identities of a set packed from them."""
    assert align_faces.main([str(path), str(out / "crops"), "--workers", "1", "--size", str(SIDE)]) == 0
    num_photos = len((out / "crops" / "align.jsonl").read_text().splitlines())
    assert pack_rec.main([str(out / "crops"), str(out / "packed" / "train"), "--quiet"]) == 0
    records = ImageRecords(out / "packed")
    assert len(records) == num_photos
    return num_photos, records.num_classes


def pairs(path: Path, out: Path) -> Counts:
    """Count the images in all the pairs that there are."""
    out.mkdir()
    assert make_pairs.main([str(path), str(out / "pairs.txt"), "--folds", "1", "--pairs", "8"]) == 0
    lines = (out / "pairs.txt").read_text().splitlines()
    names = {name for line in lines for name in line.split("\t")[:2]}
    return len(names), len({name.split("/")[0] for name in names})


COMMANDS = [pack, convert, train, embed, align, pairs]


@pytest.fixture(autouse=True)
def _stand_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(align_faces, "build_detector", lambda *args, **kwargs: FewFaces())
    monkeypatch.setattr(models, "load_embedder", lambda *args, **kwargs: FewNumbers())


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("shape", ["nested", "linked", "upper-case", "with an image in the root"])
def test_five_images_of_two_people(
    command: Callable[[Path, Path], Counts],
    shape: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = tmp_path / "nest"
    if shape == "linked":
        write(tmp_path / "away", NEST)
        root.mkdir()
        for name in ("ann", "bob"):
            (root / name).symlink_to(tmp_path / "away" / name)
        (root / "bob" / "everybody").symlink_to(root)
    elif shape == "upper-case":
        write(root, [name.upper() for name in NEST])
    else:
        write(root, [*NEST, "root.jpg"] if "root" in shape else NEST)
    assert command(root, tmp_path / "out") == (5, 2)
    # A command has its own handler, which writes to stderr and puts that of pytest aside.
    lines = [*caplog.messages, *capsys.readouterr().err.splitlines()]
    expected = {
        "linked": [f"{root}: passed over 1 link to a folder above or already taken"],
        "with an image in the root": [
            f"{root}: passed over 1 file: .jpg 1, with 1 image beside the folders of identities"
        ],
    }.get(shape, [])
    assert [line for line in lines if line.startswith(f"{root}: passed over")] == expected, "once, by every command"


@pytest.mark.parametrize("command", [pack, convert, train, embed, align])
def test_a_folder_comes_before_the_packed_set_beside_it(
    command: Callable[[Path, Path], Counts], tmp_path: Path
) -> None:
    people = write(tmp_path / "people", [f"{name}/{i}.jpg" for name in ("ann", "bob", "cid") for i in range(3)])
    write(tmp_path / "few", ["ann/0.jpg", "dan/0.jpg"])
    assert pack(tmp_path / "few", tmp_path / "made") == (2, 2)
    for suffix in ("rec", "idx"):
        (tmp_path / "made" / f"train.{suffix}").rename(f"{people}.{suffix}")
    assert command(people, tmp_path / "out") == (9, 3)


@pytest.mark.parametrize("command", [convert, train, embed])
def test_with_its_suffix_the_packed_set_is_meant(command: Callable[[Path, Path], Counts], tmp_path: Path) -> None:
    write(tmp_path / "people", ["ann/0.jpg", "bob/0.jpg", "cid/0.jpg"])
    write(tmp_path / "few", ["ann/0.jpg", "dan/0.jpg"])
    assert pack_rec.main([str(tmp_path / "few"), str(tmp_path / "people.rec")]) == 0
    assert command(tmp_path / "people.rec", tmp_path / "out") == (2, 2)
