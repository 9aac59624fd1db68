"""Ranks that differ are told apart before the first step, on every rank in the same words."""

from __future__ import annotations

import dataclasses
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recognition.config.schema import Config, DataConfig, OptimConfig
from recognition.errors import ArcShardError
from recognition.feed.datasets import FolderDataset, RecDataset, open_dataset
from recognition.formats import index_cache
from recognition.training import preflight
from tests.helpers.sets import SIZE, picture, png, write_rec
from tests.helpers.worlds import run_world, world_sizes


def write_set(folder: Path, *, labels: list[int]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_rec(folder / "train", [(label, png(picture(i))) for i, label in enumerate(labels)])
    (folder / "property").write_text(f"3,{SIZE},{SIZE}\n")


def outcome(world: Any, config: Config) -> str:
    try:
        return f"{len(preflight.preflight(config, world))} images"
    except ArcShardError as err:
        return f"{type(err).__name__}: {err}"


def cases(world: Any, folder: str) -> dict[str, str]:
    """Run every case as one rank; the last rank is the odd one out."""
    is_odd = world.rank == world.size - 1
    config = Config(data=DataConfig(rec="train.rec", image_size=SIZE), optim=OptimConfig(lr=0.2))
    found = {}
    os.chdir(Path(folder) / "whole")
    found["equal"] = outcome(world, config)
    other = dataclasses.replace(config, seed=7, optim=OptimConfig(lr=0.4))
    found["config"] = outcome(world, other if is_odd else config)
    for name in ("labels", "shorter", "absent"):
        os.chdir(Path(folder) / (name if is_odd else "whole"))
        found[name] = outcome(world, config)
    os.chdir(Path(folder) / "whole")
    code, facts = preflight._code, preflight.find_facts
    if is_odd:
        preflight._code = lambda: {**code(), "recognition/heads/margins.py": "abc", "recognition/new.py": "def"}
    found["code"] = outcome(world, config)
    preflight._code = code
    for package in ("torch", "numpy"):
        with Warnings() as warnings:
            if is_odd:
                preflight.find_facts = lambda *args, package=package: with_package(facts(*args), package)
            found[package] = outcome(world, config)
            preflight.find_facts = facts
        found[f"{package} warned"] = "; ".join(warnings.lines)
    return found


def with_package(facts: Any, name: str) -> Any:
    return {**facts, "package": {**facts["package"], name: "0.1"}}


class Warnings(logging.Handler):
    """Collects what the preflight warns of."""

    def __enter__(self) -> Warnings:
        super().__init__()
        self.lines: list[str] = []
        preflight.logger.addHandler(self)
        return self

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())

    def __exit__(self, *_: object) -> None:
        preflight.logger.removeHandler(self)


@pytest.mark.parametrize("size", world_sizes(1, 2, 3))
def test_differences_are_one_error_on_every_rank(size: int, tmp_path: Path) -> None:
    write_set(tmp_path / "whole", labels=[0, 1, 2, 0])
    write_set(tmp_path / "labels", labels=[0, 1, 2, 1])
    write_set(tmp_path / "shorter", labels=[0, 1, 2])
    (tmp_path / "absent").mkdir()
    cwd = Path.cwd()
    try:
        ranks = run_world(size, cases, str(tmp_path))
    finally:
        os.chdir(cwd)
    odd = f"rank {size - 1}"
    for found in ranks:
        assert found["equal"] == "4 images"
        if size == 1:
            continue  # nobody to differ from
        assert found["config"] == (
            f"ConfigError: {odd}: config optim.lr: found 0.4, expected 0.2 as on rank 0; {odd}: config seed: found 7, "
            "expected 2048 as on rank 0; start every rank with the same config and overrides"
        )
        assert found["labels"].startswith(f"ConfigError: {odd}: data labels: found ")
        assert found["labels"].endswith(" as on rank 0; copy the same files to every node")
        assert f"{odd}: data images: found 3, expected 4 as on rank 0" in found["shorter"]
        absent = f"DataError: {odd}: train.rec: no such file or folder; expected a packed set"
        assert found["absent"].startswith(absent)
        assert found["code"].startswith(f"ConfigError: {odd}: code recognition/heads/margins.py: found abc, expected ")
        assert f"{odd}: code recognition/new.py: found def, expected nothing as on rank 0" in found["code"]
        assert found["torch"].startswith(f"ConfigError: {odd}: package torch: found 0.1, expected 2.")
        assert found["torch warned"] == ""
        assert found["numpy"] == "4 images"
        assert found["numpy warned"] == (
            f"{odd}: package numpy: found 0.1, expected {np.__version__} as on rank 0; install the same versions on "
            "every node"
        )


def test_many_differences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    every = [{"config": {str(i): "1" for i in range(9)}}, {"config": {str(i): "2" for i in range(9)}}]
    lines = list(preflight.differences(every, ("config",)))
    assert len(lines) == 9
    assert lines[0] == "rank 1: config 0: found 2, expected 1 as on rank 0"


def test_the_index_alone_changes_a_fingerprint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path, labels=[0, 1, 2, 0])
    before = RecDataset(tmp_path, SIZE).fingerprint()
    monkeypatch.setattr(index_cache, "MIN_IDX_BYTES", 0)
    assert RecDataset(tmp_path, SIZE).fingerprint() == before, "made from the .idx"
    assert RecDataset(tmp_path, SIZE).fingerprint() == before, "mapped"
    lines = (tmp_path / "train.idx").read_text().splitlines()
    (tmp_path / "train.idx").write_text("\n".join(["9\t0", *lines[1:]]) + "\n")
    after = RecDataset(tmp_path, SIZE).fingerprint()
    assert {key for key in before if before[key] != after[key]} == {"index"}


def test_a_bad_record_is_no_difference(tmp_path: Path) -> None:
    write_rec(tmp_path / "train", [(0, png(picture(1))), (9, b"")])
    (tmp_path / "property").write_text(f"3,{SIZE},{SIZE}\n")
    assert RecDataset(tmp_path, SIZE).fingerprint()["images"] == 2


def test_folders_and_joined_sets_have_fingerprints(tmp_path: Path) -> None:
    for name in ("a/p0/0.png", "a/p1/1.png", "b/p0/0.png", "b/p1/2.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png(picture(1)))
    first, second = (FolderDataset(tmp_path / name, SIZE).fingerprint() for name in "ab")
    assert {key for key in first if first[key] != second[key]} == {"names"}
    joined = DataConfig(rec=str(tmp_path / "a"), more_rec=(str(tmp_path / "b"),), image_size=SIZE)
    offset = open_dataset(joined).fingerprint()
    same = open_dataset(dataclasses.replace(joined, identities="same")).fingerprint()
    assert offset["set 0 names"] == first["names"]
    assert {key for key in offset if offset[key] != same[key]} == {"classes", "identities"}


def test_every_source_file_counts() -> None:
    code = preflight._code()
    assert {
        "recognition/commands/train.py",
        "recognition/verification/metrics.py",
        "recognition/training/preflight.py",
    } <= code.keys()
