"""New people for a trained head: old centers stay, by name, and what it knew is not forgotten."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.commands import pack_rec
from recognition.commands.train import main
from recognition.config.loader import load_config
from recognition.distributed.checkpoint import Checkpoint, latest_checkpoint
from recognition.distributed.world import World
from recognition.embedding.embedder import Embedder
from recognition.errors import DataError
from recognition.feed.dataset import Dataset
from recognition.feed.datasets import open_dataset
from recognition.images.codec import encode_jpeg
from recognition.training.build import Parts, build_parts
from recognition.training.kept_centers import NAMES, keep_centers
from tests.helpers.runs import SMALL, with_overrides
from tests.helpers.worlds import run_world

pytestmark = pytest.mark.slow
SIDE, EACH = 32, 8
OLD = [f"person {number:02d}" for number in range(20)]
NEW = ["a newcomer", "person 07b", "person 99", "zoe", "person 00a"]
"""Sorted among the old ones, so that class ids move."""
ALONE = World(0, 1, 0, torch.device("cpu"))


def face(name: str, number: int) -> np.ndarray:
    """Return a faint coarse pattern of a person, moved by a few pixels, under noise: uint8 [S, S, 3]."""
    key = zlib.crc32(name.encode())
    coarse = np.random.default_rng(key).integers(0, 70, (8, 8, 3)).repeat(SIDE // 8, 0).repeat(SIDE // 8, 1)
    picture = np.random.default_rng([number, key])
    moved = np.roll(coarse, picture.integers(-3, 4, 2), (0, 1))
    return (moved + picture.integers(0, 180, (SIDE, SIDE, 3))).astype(np.uint8)


def pack(folder: Path, names: list[str]) -> Path:
    for name in names:
        (folder / "faces" / name).mkdir(parents=True)
        for number in range(EACH):
            (folder / "faces" / name / f"{number}.jpg").write_bytes(encode_jpeg(face(name, number)))
    assert pack_rec.main([str(folder / "faces"), str(folder / "set" / "train"), "--quiet"]) == 0
    return folder / "set"


def train(rec: Path, run: Path, *overrides: str) -> int:
    settings = [one for one in SMALL if not one.startswith(("data.num_classes", "data.num_image", "data.rec"))]
    common = [f"data.rec={rec}", f"output={run}", "train.batch_size=16", "optim.lr=0.05", "backbone.embedding_size=32"]
    return main(["configs/base.yaml", "--quiet", *with_overrides(settings, *common, *overrides)])


def centers_of(run: Path) -> dict[str, torch.Tensor]:
    """Return the centers of a finished run by name."""
    newest = latest_checkpoint(run / "checkpoints")
    assert newest is not None
    checkpoint = Checkpoint(newest)
    rows = torch.empty(checkpoint.num_classes, 32)
    checkpoint.read_rows_("centers", range(checkpoint.num_classes), rows)
    return dict(zip((run / NAMES).read_text().splitlines(), rows))


def accuracy(run: Path, people: list[str]) -> float:
    """Return the share of unseen pictures of `people` whose nearest center, of theirs, is their own."""
    centers = {name: center for name, center in centers_of(run).items() if name in people}
    names = [name for name in people for _ in range(12)]
    images = np.stack([face(name, EACH + number) for name in people for number in range(12)])
    found = torch.nn.functional.normalize(torch.from_numpy(Embedder.load(run).embed(images)), dim=1)
    cosines = found @ torch.nn.functional.normalize(torch.stack(list(centers.values())), dim=1).T
    nearest = [list(centers)[index] for index in cosines.argmax(1).tolist()]
    return float(np.mean([one == other for one, other in zip(nearest, names)]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run on the old people, and a set of old and new ones."""
    folder = tmp_path_factory.mktemp("people")
    old = pack(folder / "old", OLD)
    assert train(old, folder / "run", "train.num_epoch=12") == 0
    return folder / "run", pack(folder / "both", [*OLD, *NEW])


def parts_of(world: World, run: Path, both: Path) -> tuple[Parts, Dataset, np.ndarray]:
    settings = [one for one in SMALL if not one.startswith(("data.num_classes", "data.num_image", "data.rec"))]
    own = [f"data.rec={both}", f"init_from={run}", "head.init=keep", "backbone.embedding_size=32"]
    config = load_config("configs/base.yaml", with_overrides(settings, *own))
    dataset = open_dataset(config.data)
    parts = build_parts(config, dataset.num_classes, world)
    return parts, dataset, keep_centers(parts, dataset, config, world)


def kept_by_name(world: World, run: Path, both: Path) -> dict[str, torch.Tensor]:
    """Return the centers that this rank kept."""
    parts, dataset, kept = parts_of(world, run, both)
    names, first = dataset.class_names(), parts.head.class_range.start
    assert names is not None
    return {names[first + row]: parts.head.centers[row] for row in np.flatnonzero(kept).tolist()}


def test_old_people_have_their_centers_bit_for_bit_whatever_their_class_ids(trained: tuple[Path, Path]) -> None:
    run, both = trained
    parts, dataset, kept = parts_of(ALONE, run, both)
    names = dataset.class_names()
    assert names == sorted([*OLD, *NEW]) and kept.sum() == 20
    before = centers_of(run)
    for label, name in enumerate(names):
        assert kept[label] == (name in before)
        if name in before:
            assert torch.equal(parts.head.centers[label], before[name])


def test_each_of_two_ranks_finds_its_own(trained: tuple[Path, Path]) -> None:
    run, both = trained
    before = centers_of(run)
    found = [item for part in run_world(2, kept_by_name, run, both, timeout_s=240) for item in part.items()]
    assert len(found) == len(before) and all(torch.equal(center, before[name]) for name, center in found)


def test_what_it_knew_is_not_forgotten_and_the_new_are_learned(trained: tuple[Path, Path], tmp_path: Path) -> None:
    """Two epochs on 20 + 5 people, beside the same two epochs from scratch."""
    run, both = trained
    before = accuracy(run, OLD)
    two = ["train.num_epoch=2"]
    gently = ["optim.lr=0.01", "optim.freeze=[conv1.*, bn1.*, prelu.*, layer*]"]
    assert train(both, tmp_path / "kept", *two, f"init_from={run}", "head.init=keep", *gently) == 0
    assert train(both, tmp_path / "scratch", *two) == 0
    assert before > 0.6  # there is something to forget
    assert accuracy(tmp_path / "kept", OLD) >= before > accuracy(tmp_path / "scratch", OLD)
    assert accuracy(tmp_path / "kept", NEW) > accuracy(tmp_path / "scratch", NEW)


def test_another_number_of_classes_names_the_way(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, both = trained
    assert train(both, tmp_path / "run", "train.num_epoch=1", "data.max_identities=20") == 0
    capsys.readouterr()
    assert train(both, tmp_path / "run", "train.num_epoch=2", "resume=true") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "holds 20 classes; the data set has 25" in error and "init_from=RUN head.init=keep" in error


@pytest.mark.parametrize("wrong", ["doubled", "missing", "strangers", "no names", "no checkpoint", "too many"])
def test_names_that_do_not_fit_are_one_line(
    wrong: str, trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, both = trained
    names = (run / NAMES).read_text()
    settings, expected = [f"init_from={run}", "head.init=keep"], ""
    beside = both / "train.names"
    held = beside.read_text()
    try:
        if wrong == "doubled":
            beside.write_text(held.replace("zoe", "person 00"))
            expected = "train.names:25: 'person 00' again, as in line 2; expected each name once; rename one of them"
        elif wrong == "missing":
            (run / NAMES).unlink()
            expected = "classes.names: no such file; expected the names of the run's classes"
        elif wrong == "strangers":
            (run / NAMES).write_text("".join(f"x{number}\n" for number in range(20)))
            expected = "none of its 20 people is among the 25 of data.rec"
        elif wrong == "no names":
            beside.unlink()
            expected = "head.init: keep finds people by their names, and data.rec has none"
        elif wrong == "no checkpoint":
            settings[0] = f"init_from={run / 'model.pt'}"
            expected = "model.pt: holds no checkpoint; expected the folder of a run"
        else:
            (run / NAMES).write_text(names + "one more\n")
            expected = "names 21 classes, and"
        capsys.readouterr()
        assert train(both, tmp_path / "run", "train.num_epoch=1", *settings) == 1
    finally:
        (run / NAMES).write_text(names)
        beside.write_text(held)
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("train_v2: error: ") and expected in error


def test_the_first_people_of_a_set_are_a_set(trained: tuple[Path, Path]) -> None:
    _, both = trained
    config = load_config("configs/base.yaml", [f"data.rec={both}", f"data.image_size={SIDE}", "data.max_identities=3"])
    dataset = open_dataset(config.data)
    assert (len(dataset), dataset.num_classes, dataset.num_used) == (3 * EACH, 3, 3)
    assert dataset.class_names() == sorted([*OLD, *NEW])[:3] and sorted(set(dataset.labels().tolist())) == [0, 1, 2]
    whole = open_dataset(load_config("configs/base.yaml", [f"data.rec={both}", f"data.image_size={SIDE}"]).data)
    assert dataset.fingerprint() != whole.fingerprint() and np.array_equal(dataset[9][0], whole[9][0])


def test_names_of_too_few_classes_are_refused(trained: tuple[Path, Path]) -> None:
    _, both = trained
    beside = both / "train.names"
    held = beside.read_text()
    beside.write_text("one\ntwo\n")
    try:
        dataset = open_dataset(load_config("configs/base.yaml", [f"data.rec={both}", f"data.image_size={SIDE}"]).data)
        with pytest.raises(DataError, match="2 names for 25 classes; expected one a line; pack the set anew"):
            dataset.class_names()
    finally:
        beside.write_text(held)
