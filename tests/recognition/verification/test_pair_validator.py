"""Verification during training gives every rank the same numbers, and every rank the same error."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recognition.config.schema import Config, DataConfig, ValidationConfig
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.formats.pairs_bin import write_pairs
from recognition.images.codec import encode_jpeg
from recognition.verification.pair_validator import result_values
from recognition.verification.protocols import embedded_rows, open_pair_set, verify_embeddings
from recognition.verification.sorted_scores import tar_name
from recognition.verification.validators import build_validators
from tests.helpers.worlds import run_world

ALONE = World(0, 1, 0, torch.device("cpu"))
SIDE = 16


def write_faces(path, num_pairs=23, seed=0):
    """Random textures; the second picture of a same-person pair is the first plus noise."""
    rng = np.random.default_rng(seed)
    images, is_same = [], []
    for index in range(num_pairs):
        first, other = rng.integers(0, 256, (2, SIDE, SIDE, 3))
        second = first if index % 2 == 0 else other
        noisy = np.clip(second + rng.normal(0, 60, second.shape), 0, 255)
        images += [encode_jpeg(image.astype(np.uint8)) for image in (first, noisy)]
        is_same.append(index % 2 == 0)
    images[19] = images[0]  # one picture in several pairs, as in every real set
    write_pairs(path, images, is_same)


def config_for(folder, targets, *, batch_size=5, **data):
    validation = ValidationConfig(val_dir=str(folder), val_targets=tuple(targets), batch_size=batch_size)
    return Config(data=DataConfig(image_size=SIDE, **data), validation=validation)


def embed(pixels):
    """A projection summed element by element, so that the batch an image is in cannot change a bit of its row."""
    assert pixels.dtype == np.uint8
    assert len(pixels) <= 5
    weights = np.random.default_rng(1).normal(size=(SIDE * SIDE * 3, 8))
    both = pixels.astype(np.float64) + pixels[:, :, ::-1].astype(np.float64) - 255
    return np.stack([(row.reshape(-1, 1) * weights).sum(0) for row in both]).astype(np.float32)


def _validate(world: World, folder: Path, targets: Sequence[str]) -> dict[str, dict[str, float]]:
    validators = build_validators(config_for(folder, targets), world)
    return {name: validator.run(embed).values for name, validator in validators.items()}


def _error(world: World, folder: Path, target: str, *, failing_rank: int | None = None) -> str:
    def failing(pixels):
        if world.rank == failing_rank:
            raise RuntimeError("out of memory")
        return embed(pixels)

    try:
        for validator in build_validators(config_for(folder, [target]), world).values():
            validator.run(failing)
    except Exception as err:
        return f"{type(err).__name__}: {err}"
    return "none"


def _every_case(world: World, folder: str) -> dict[str, Any]:
    """Starting a world takes seconds, so one runs all."""
    root = Path(folder)
    return {
        "values": _validate(world, root, ["toy", "other"]),
        "failing embed": _error(world, root, "toy", failing_rank=1),
        "broken image": _error(world, root, "broken"),
        "different files": _error(world, root / f"node{world.rank}", "toy"),
        "missing": _error(world, root, "lfw"),
        "missing on one": _error(world, root / f"node{world.rank}", "first"),
        "values after errors": _validate(world, root, ["toy"]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    write_faces(folder / "toy.bin")
    write_faces(folder / "other.bin", num_pairs=20, seed=3)
    pairs = open_pair_set(folder / "toy.bin")
    write_pairs(folder / "broken.bin", [*pairs.images[:-2], b"junk", pairs.images[-1]], pairs.is_same)
    for rank in range(3):
        (folder / f"node{rank}").mkdir()
        write_faces(folder / f"node{rank}" / "toy.bin", seed=rank)
    write_faces(folder / "node0" / "first.bin")
    return folder


@pytest.fixture(scope="module", params=[2, 3])
def outcomes(request, folder):
    return run_world(request.param, _every_case, str(folder), timeout_s=120)


def test_one_process_gives_what_the_offline_protocol_gives(folder):
    values = _validate(ALONE, folder, ["toy"])["toy"]
    pair_set = open_pair_set(folder / "toy.bin")
    rows = list(embedded_rows(embed, pair_set.images, image_size=SIDE, batch_size=5, place="toy"))
    assert values == result_values(verify_embeddings(pair_set, rows))
    assert set(values) == {
        "accuracy",
        "std",
        "threshold_cosine",
        "threshold_l2",
        "tar@far1e-3",
        "tar@far1e-4",
        "auc",
        "eer",
        "xnorm",
    }
    assert all(type(value) is float for value in values.values())
    assert values["accuracy"] > 0.7


@pytest.mark.slow
def test_any_number_of_ranks_gives_every_rank_the_numbers_of_one(folder, outcomes):
    alone = _validate(ALONE, folder, ["toy", "other"])
    assert [outcome["values"] for outcome in outcomes] == [alone] * len(outcomes)
    assert [outcome["values after errors"]["toy"] for outcome in outcomes] == [alone["toy"]] * len(outcomes)


@pytest.mark.slow
def test_an_error_on_one_rank_ends_all(outcomes):
    messages = [outcome["failing embed"] for outcome in outcomes]
    assert messages.pop(1) == "RuntimeError: out of memory"
    assert set(messages) == {"DataError: rank 1: RuntimeError: out of memory"}


@pytest.mark.slow
def test_a_broken_image_in_one_share_ends_all_and_is_named(outcomes):
    (text,) = {outcome["broken image"] for outcome in outcomes}
    assert "broken.bin: image 44: not an image" in text


@pytest.mark.slow
def test_nodes_that_see_different_files_are_told(outcomes):
    for outcome in outcomes:
        assert "see different files; expected one and the same; copy it to every node" in outcome["different files"]


@pytest.mark.slow
def test_a_set_missing_on_any_rank_ends_all_at_the_start(outcomes):
    assert all("ConfigError: validation.val_targets: " in outcome["missing"] for outcome in outcomes)
    first, second = (outcome["missing on one"] for outcome in outcomes[:2])
    assert first == second
    assert "first.bin: missing" in first


def test_a_rank_without_images_takes_part_and_never_embeds(folder):
    (validator,) = build_validators(config_for(folder, ["other"]), ALONE).values()
    empty = dataclasses.replace(validator.pair_set, images=[])
    assert len(dataclasses.replace(validator, pair_set=empty)._embed_share(_never)) == 0


def _never(pixels):
    raise AssertionError("called without images")


def test_a_missing_set_is_an_error_at_the_start_that_names_the_path(folder):
    with pytest.raises(ConfigError, match=r"val_targets: .*/lfw\.bin: missing; expected the verification set 'lfw'"):
        build_validators(config_for(folder, ["toy", "lfw"]), ALONE)


def test_the_folder_of_the_data_is_where_sets_are_looked_for(folder):
    for rec in (str(folder), str(folder / "train.rec")):
        config = Config(data=DataConfig(rec=rec), validation=ValidationConfig(val_targets=("toy",)))
        assert list(build_validators(config, ALONE)) == ["toy"]
    synthetic = Config(data=DataConfig(rec="synthetic"), validation=ValidationConfig(val_targets=("toy",)))
    with pytest.raises(ConfigError, match=r"validation\.val_dir: not stated, and data\.rec is 'synthetic'"):
        build_validators(synthetic, ALONE)
    by_path = dataclasses.replace(synthetic, validation=ValidationConfig(val_targets=(str(folder / "toy.bin"),)))
    assert list(build_validators(by_path, ALONE)) == ["toy"]


def test_two_targets_of_one_name_are_refused(folder):
    with pytest.raises(ConfigError, match="are both named 'toy'; expected distinct names"):
        build_validators(config_for(folder, ["toy", str(folder / "toy.bin")]), ALONE)


def test_embeddings_that_overflow_warn_and_do_not_end_the_run(folder, caplog):
    def overflowing(pixels):
        return np.full((len(pixels), 4), np.inf, dtype=np.float32)

    (validator,) = build_validators(config_for(folder, ["other"]), ALONE).values()
    with caplog.at_level(logging.WARNING):
        values = validator.run(overflowing).values
    assert values["accuracy"] == 0.5
    assert "other: 39 of 39 embeddings are not finite; taken as zeros" in caplog.text
    assert "hardly better than guessing" in caplog.text


def test_only_the_main_rank_warns(folder, caplog):
    (validator,) = build_validators(config_for(folder, ["other"]), ALONE).values()
    with caplog.at_level(logging.WARNING):
        dataclasses.replace(validator, world=World(1, 1, 1, torch.device("cpu"))).run(_constant)
    assert caplog.text == ""


def _constant(pixels):
    return np.ones((len(pixels), 4), dtype=np.float32)


@pytest.mark.parametrize(("target", "label"), [(1e-3, "tar@far1e-3"), (1e-4, "tar@far1e-4"), (1e-10, "tar@far1e-10")])
def test_rates_are_spelled_the_fields_way(target, label):
    assert tar_name(target) == label
