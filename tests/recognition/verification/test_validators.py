"""Which validators a config asks for, and a validator of one file that a whole run is judged by."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from recognition.commands import train
from recognition.config.schema import Config, DataConfig
from recognition.config.schema import ValidationConfig as Validation
from recognition.distributed.world import World
from recognition.errors import ConfigError
from recognition.plan import find_inputs
from recognition.verification.validators import VALIDATORS, build_validators, find_targets
from tests.helpers.registries import entered
from tests.helpers.runs import SMALL

ALONE = World(0, 1, 0, torch.device("cpu"))
# Judges a model by how far apart it puts black and white; its set is a folder with a file that says how many of each.
VALIDATOR_FILE = """
import numpy as np
from dataclasses import dataclass
from pathlib import Path
from recognition.errors import DataError
from recognition.verification.validators import Report, Setting


class Contrast:
    def locate(self, where, config):
        return Path(where).name, Path(where)

    def open(self, setting):
        text = (setting.path / "count.txt").read_text()
        if not text.strip().isdigit():
            raise DataError(f"{setting.path}/count.txt: found {text!r}, expected a number; correct it")
        return ContrastValidator(setting, int(text))


@dataclass
class ContrastValidator:
    setting: Setting
    count: int

    @property
    def fingerprint(self):
        return str(self.count)

    def advice(self):
        return f"{self.setting.name}: one picture of each says little" if self.count < 2 else None

    def run(self, embed):
        shape = (self.count, self.setting.image_size, self.setting.image_size, 3)
        black, white = (embed(np.full(shape, value, np.uint8)) for value in (0, 255))
        gap = float(np.linalg.norm(black - white, axis=1).mean())
        return Report(score=-gap, values={"gap": gap}, line=f"gap {gap:.3f}")
"""


@pytest.fixture
def contrast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "contrast_validator.py").write_text(VALIDATOR_FILE, encoding="utf-8")
    (tmp_path / "sets" / "poles").mkdir(parents=True)
    (tmp_path / "sets" / "poles" / "count.txt").write_text("1", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    with entered(VALIDATORS, "contrast", "contrast_validator:Contrast"):
        yield tmp_path / "sets" / "poles"


def paths(config: Config) -> dict[str, Path]:
    return {name: target.path for name, target in find_targets(config).items()}


def run_of(tmp_path: Path, *overrides: str) -> list[str]:
    (tmp_path / "mine.yaml").write_text("seed: 1\n", encoding="utf-8")
    steps = ["train.batch_size=33", "train.num_epoch=1", "validation.every_steps=2", f"output={tmp_path}/run"]
    return [str(tmp_path / "mine"), *(word for word in SMALL if "num_epoch" not in word), *steps, *overrides]


@pytest.mark.slow
def test_a_validator_added_in_one_file_judges_a_run(
    contrast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = run_of(tmp_path, f"validation.val_targets=[contrast:{contrast}]")
    assert train.main([*command, "--check"]) == 0
    assert "poles: before step 1, every 2 steps and at the end" in capsys.readouterr().out
    assert train.main(command) == 0
    log = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert any(line.endswith("poles: one picture of each says little") for line in log)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    gaps = {row["step"]: row["gap"] for row in rows if row["kind"] == "poles"}
    assert list(gaps) == [0, 2, 4]
    lines = [line for line in log if "  poles  gap " in line]
    best = min(gaps.values())
    assert len(lines) == 3
    assert f"best {-best:.4f}" in lines[-1], "the nearer black and white, the better: the score is what counts"
    manifest = json.loads((tmp_path / "run" / "checkpoints" / "step_00000004" / "manifest.json").read_text())
    assert manifest["meta"]["state"]["best"] == {"poles": -best}


def test_what_a_validator_finds_wrong_ends_the_run_before_its_first_step(
    contrast: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (contrast / "count.txt").write_text("many", encoding="utf-8")
    assert train.main(run_of(tmp_path, f"validation.val_targets=[contrast:{contrast}]")) == 1
    assert "count.txt: found 'many', expected a number; correct it" in capsys.readouterr().err
    assert train.main(run_of(tmp_path, "validation.val_targets=[contrast:nowhere]")) == 1
    assert "validation.val_targets: 'nowhere' has no file; expected nowhere; set" in capsys.readouterr().err


def test_an_unknown_form_is_answered_with_the_nearest(contrast: Path) -> None:
    config = replace(Config(), validation=Validation(val_targets=(f"contrats:{contrast}",)))
    with pytest.raises(
        ConfigError, match=r"unknown form of validation.val_targets 'contrats'; did you mean 'contrast'"
    ):
        find_inputs(config)


def test_no_targets_means_no_validators() -> None:
    assert build_validators(Config(), ALONE) == {}


@pytest.mark.parametrize("rec", ["faces", "faces/train.rec", "faces/train"])
def test_verification_sets_lie_in_the_data_folder_by_default(tmp_path: Path, rec: str) -> None:
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "train.rec").touch()
    config = replace(Config(), data=DataConfig(rec=str(tmp_path / rec)), validation=Validation(val_targets=("lfw",)))
    assert paths(config) == {"lfw": tmp_path / "faces" / "lfw.bin"}


def test_a_target_that_ends_in_bin_is_a_path(tmp_path: Path) -> None:
    config = replace(Config(), validation=Validation(val_dir="v", val_targets=(str(tmp_path / "a.bin"), "b")))
    assert paths(config) == {"a": tmp_path / "a.bin", "b": Path("v/b.bin")}
    with pytest.raises(ConfigError, match="are both named 'a'; expected distinct names"):
        find_targets(replace(config, validation=Validation(val_dir="v", val_targets=("x/a.bin", "a"))))


def test_synthetic_data_have_no_folder_for_verification_sets() -> None:
    config = replace(Config(), data=DataConfig(rec="synthetic"), validation=Validation(val_targets=("lfw",)))
    with pytest.raises(ConfigError, match=r"validation.val_dir: not stated, and data.rec is 'synthetic'"):
        find_targets(config)


@pytest.mark.parametrize("typed", ["calfw", "calfw.bin"])
def test_a_name_with_and_without_suffix_is_found_in_the_folder(tmp_path: Path, monkeypatch, typed: str) -> None:
    (tmp_path / "val").mkdir()
    (tmp_path / "val/calfw.bin").touch()
    (tmp_path / "calfw.bin").touch()
    monkeypatch.chdir(tmp_path)
    named = Validation(val_dir="val", val_targets=(typed,))
    assert paths(replace(Config(), validation=named)) == {"calfw": Path("val/calfw.bin")}
    (tmp_path / "val/calfw.bin").unlink()
    expected = Path("calfw.bin") if typed.endswith(".bin") else Path("val/calfw.bin")
    assert paths(replace(Config(), validation=named)) == {"calfw": expected}


@pytest.mark.parametrize("typed", ["sub/lfw", "sub/lfw.bin"])
def test_a_relative_path_is_taken_as_it_is_or_below_the_folder(tmp_path: Path, monkeypatch, typed: str) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(Config(), validation=Validation(val_dir="val", val_targets=(typed,)))
    (tmp_path / "val/sub").mkdir(parents=True)
    (tmp_path / "val/sub/lfw.bin").touch()
    assert paths(config) == {"lfw": Path("val/sub/lfw.bin")}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/lfw.bin").touch()
    assert paths(config) == {"lfw": Path("sub/lfw.bin")}
