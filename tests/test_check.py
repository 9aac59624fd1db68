"""`train_v2.py CONFIG --check` for every config, as its users type it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recognition.commands import train
from recognition.config.loader import load_config
from tests.helpers.places import ROOT

FOLDER = ROOT / "configs"
CONFIGS = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml"))
# What a config leaves to the data is stated here: a check needs no data, but then it needs their sizes.
SIZES = ["data.num_classes=1000", "data.num_image=100000"]


@pytest.mark.parametrize("name", CONFIGS)
def test_a_check_prints_the_plan(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "0")
    path = str(ROOT / "configs" / name)
    config = load_config(path)
    stated = [] if config.data.num_image else SIZES
    absent = [] if config.data.rec and stated == [] else ["data.rec=absent"]
    assert train.main([path, "--check", *stated, *absent]) == 0
    out, err = capsys.readouterr()
    batch = 8 * config.train.batch_size * config.train.gradient_accumulation
    for expected in ("8 ranks", f"{batch:,}", "lr", "memory"):
        assert expected in out, out + err
    assert not list(tmp_path.iterdir()), "a check writes nothing"
