"""Centers that start from class means: the same on any number of ranks as one image after the other."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.backbones import build_backbone
from recognition.backbones.weights import save_backbone
from recognition.config.loader import load_config
from recognition.config.schema import Config, DataConfig, HeadConfig
from recognition.distributed.world import World
from recognition.errors import ArcShardError, ConfigError
from recognition.feed.datasets import SyntheticDataset, open_dataset
from recognition.images.preprocess import to_network
from recognition.training import class_means
from recognition.training.build import build_parts
from recognition.training.class_means import choose_images, start_from_class_means
from tests.helpers.runs import SMALL
from tests.helpers.sets import picture, png, write_rec
from tests.helpers.worlds import run_world, world_sizes

ALONE = World(0, 1, 0, torch.device("cpu"))
MEANS = ["head.init=class_means", "head.init_images=5"]


def small_config(folder: str, *overrides: str) -> Config:
    given = [*SMALL, *MEANS, f"init_from={folder}/model.pt", *overrides]
    settings = dict(setting.split("=", 1) for setting in given)  # a later one wins
    return load_config("configs/base.yaml", [f"{key}={value}" for key, value in settings.items()])


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(5)
    network = build_backbone("tiny", embedding_size=16, image_size=32)
    images = torch.stack([torch.from_numpy(SyntheticDataset(64, 11, 32)[i][0]) for i in range(64)])
    with torch.no_grad():
        for _ in range(20):
            network.train()(to_network(images))  # BatchNorm's statistics
    save_backbone(network, tmp_path / "model.pt")
    return tmp_path


def centers_of(world: World, folder: str, overrides: list[str]) -> torch.Tensor:
    """Return this rank's centers after the start."""
    config = small_config(folder, *overrides)
    dataset = open_dataset(config.data)
    parts = build_parts(config, dataset.num_classes, world)
    start_from_class_means(parts, dataset, config, world, Path(folder), quiet=True)
    assert parts.backbone.training
    return parts.head.state_rows()["centers"].float().clone()


def slow_centers(folder: str, *overrides: str) -> torch.Tensor:
    """One image after the other through the network, one class after the other, on top of the random start."""
    config = small_config(folder, *overrides)
    dataset = open_dataset(config.data)
    parts = build_parts(config, dataset.num_classes, ALONE)
    rows = parts.head.state_rows()["centers"].double().clone()
    labels, most, subs = dataset.labels(), config.head.init_images, config.head.sub_centers
    network = parts.backbone.eval()
    for label in range(dataset.num_classes):
        own = [index for index in range(len(dataset)) if labels[index] == label]
        count = min(most, len(own))
        # The first image that lies at or behind each of `count` even steps less one.
        chosen = [own[-(-(step + 1) * len(own) // count) - 1] for step in range(count)]
        for sub in range(subs):
            total = torch.zeros(16, dtype=torch.float64)
            for index in chosen[sub::subs]:
                image = torch.from_numpy(dataset[index][0])[None]
                with torch.no_grad():
                    both = network(to_network(image)) + network(to_network(image, torch.tensor([True])))
                total += both[0].double() / both[0].double().norm()
            if len(chosen[sub::subs]):
                row = rows[label * subs + sub]
                row.copy_(total / total.norm() * row.norm())
    return rows.float()


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def every_case(world: World, folder: str) -> tuple[list[torch.Tensor], str]:
    return [centers_of(world, folder, overrides) for overrides in CASES], failing(world, folder)


CASES = [[], ["head.sub_centers=3"], ["head.update=autograd", "head.init_images=12"], ["head.centers_format=bf16"]]


@pytest.mark.parametrize("size", world_sizes(1, 2, 3))
def test_centers_are_the_slow_ones_on_any_number_of_ranks(size: int, weights: Path) -> None:
    write_faces(weights)
    ranks, problems = zip(*run_world(size, every_case, str(weights)))
    assert len(set(problems)) == 1, "a bad image ends all ranks alike"
    place = "" if size == 1 else "rank 0: "  # where image 4, of class 1, is read
    assert problems[0].startswith(f"{place}{weights}/train.rec: record 4 at offset ")
    for number, overrides in enumerate(CASES):
        found = torch.cat([rank[number] for rank in ranks])
        expected = slow_centers(str(weights), *overrides)
        tolerance = 1e-2 if "head.centers_format=bf16" in overrides else 1e-5
        assert relative(found, expected) <= tolerance, overrides


def test_blocks_do_not_show(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = centers_of(ALONE, str(weights), ["head.sub_centers=2"])
    monkeypatch.setattr(class_means, "_BLOCK", 3)
    assert torch.equal(centers_of(ALONE, str(weights), ["head.sub_centers=2"]), whole)


def test_images_are_nearest_to_their_own_center_from_the_start(weights: Path) -> None:
    config = small_config(str(weights))
    dataset = open_dataset(config.data)
    parts = build_parts(config, dataset.num_classes, ALONE)
    images = torch.stack([torch.from_numpy(dataset[index][0]) for index in range(len(dataset))])
    with torch.no_grad():
        embeddings = parts.backbone.eval()(to_network(images))

    def hits() -> float:
        centers = torch.nn.functional.normalize(parts.head.state_rows()["centers"])
        return float(((embeddings @ centers.T).argmax(1) == torch.from_numpy(dataset.labels())).float().mean())

    before = hits()
    start_from_class_means(parts, dataset, config, ALONE, weights, quiet=True)
    assert before < 0.3
    assert hits() > 0.6, "and the network is untrained"


def write_faces(folder: Path) -> None:
    """Five classes, of which 3 has no image; image 4, of class 1, does not decode."""
    labels = [0, 0, 1, 1, 1, 2, 4, 4]
    images = [png(picture(20 * i, 32, 32)) if i != 4 else b"\xff\xd8junk" for i in range(8)]
    write_rec(folder / "train", list(zip(labels, images)))
    (folder / "property").write_text("5,32,32\n")


def packed(folder: Path, **data: Any) -> Config:
    config = small_config(str(folder))
    rec = DataConfig(rec=str(folder), image_size=32, num_workers=0, **data)
    return dataclasses.replace(config, data=rec, head=dataclasses.replace(config.head, init_images=3))


def test_a_class_without_images_stays_random_and_a_bad_one_is_left_out(weights: Path) -> None:
    write_faces(weights)
    config = packed(weights, on_bad_record="skip")
    dataset = open_dataset(config.data)
    parts = build_parts(config, 5, ALONE)
    before = parts.head.state_rows()["centers"].clone()
    start_from_class_means(parts, dataset, config, ALONE, weights, quiet=True)
    after = parts.head.state_rows()["centers"]
    assert [bool(torch.equal(*pair)) for pair in zip(before, after)] == [False, False, False, True, False]
    assert torch.allclose(before.norm(dim=1), after.norm(dim=1))
    (row,) = map(json.loads, (weights / "bad_records.jsonl").read_text().splitlines())
    assert (row["record"], row["key"]) == (4, 4)


def failing(world: World, folder: str) -> str:
    config = packed(Path(folder))
    dataset = open_dataset(config.data)
    parts = build_parts(config, 5, world)
    try:
        start_from_class_means(parts, dataset, config, world, Path(folder), quiet=True)
    except ArcShardError as err:
        return str(err)
    return "nothing"


def test_weights_that_overflow_are_named(weights: Path) -> None:
    state = torch.load(weights / "model.pt", weights_only=True)
    state["fc.weight"].fill_(3e38)  # finite, but no sum of two is
    torch.save(state, weights / "model.pt")
    with pytest.raises(ArcShardError, match=r"model\.pt: gives embeddings that are not finite"):
        centers_of(ALONE, str(weights), [])


@pytest.mark.parametrize(("size", "most"), [(1, 3), (3, 3), (4, 3), (10, 3), (7, 5), (100, 10), (5, 1)])
def test_chosen_images_are_as_many_and_spread_evenly(size: int, most: int) -> None:
    labels = np.tile([2, 0, 1], size)
    images, classes, numbers = choose_images(labels, range(1, 3), most)
    assert classes.tolist() == [1] * min(size, most) + [2] * min(size, most)
    assert (labels[images] == classes).all()
    for label in (1, 2):
        own = np.flatnonzero(np.flatnonzero(labels == label)[:, None] == images[classes == label])
        assert numbers[classes == label].tolist() == list(range(min(size, most)))
        assert len(own) == min(size, most)
        gaps = np.diff(images[classes == label]) // 3
        assert size <= most or gaps.max(initial=0) - gaps.min(initial=size) <= 1


def test_it_needs_a_network_to_start_from() -> None:
    with pytest.raises(ConfigError, match=r"head\.init: class_means needs a network that knows faces; set init_from"):
        load_config("configs/base", ["head.init=class_means"])
    with pytest.raises(ConfigError, match=r"head\.init_images: would be ignored with head\.init random"):
        load_config("configs/base", ["head.init_images=3"])
    assert HeadConfig().init == "random"
