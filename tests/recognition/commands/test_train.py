"""The command itself: torchrun to model.pt, the plan without data, and one line for everything that is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import yaml

from recognition.backbones import build_backbone
from recognition.backbones.weights import save_backbone
from recognition.commands.train import main
from tests.helpers.places import ROOT
from tests.helpers.runs import with_overrides

pytestmark = pytest.mark.slow

SMALL = [
    "device=cpu",
    "backbone.network=tiny",
    "backbone.embedding_size=16",
    "data.image_size=32",
    "train.batch_size=6",
    "train.num_epoch=1",
    "train.precision=off",
    "data.num_workers=1",
    "log.every_steps=2",
    "head.scale=16",
]


def _run(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *argv],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(env or {})},
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )


def _small(*overrides: str) -> list[str]:
    return with_overrides(SMALL, *overrides)


def _train(*argv: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    return _run(str(ROOT / "train_v2.py"), *argv, cwd=cwd, env=env)


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """Return a folder of 4 identities with 6 noisy pictures each."""
    generator = np.random.default_rng(0)
    for person in range(4):
        folder = tmp_path / "faces" / f"p{person}"
        folder.mkdir(parents=True)
        base = generator.integers(0, 200, (4, 4, 3)).repeat(8, 0).repeat(8, 1)
        for number in range(6):
            picture = (base + generator.integers(0, 55, base.shape)).astype(np.uint8)
            cv2.imwrite(str(folder / f"{number}.png"), picture)
    return tmp_path / "faces"


def test_torchrun_trains_and_leaves_a_complete_run_folder(faces: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"base: {ROOT}/configs/base.yaml\ndata: {{rec: faces}}\n")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "recognition", "train"]
    done = _run(*launch, "mine", *_small("train.batch_size=3"), cwd=tmp_path, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    run = tmp_path / "work_dirs" / "mine"
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "train.log", "logs", "metrics.jsonl", "tensorboard", "checkpoints", "model.pt"}
    assert {path.name for path in (run / "logs").iterdir()} == {"rank0.log", "rank1.log"}
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]
    assert {"loss", "top1", "lr", "img_per_s", "data_wait", "memory_bytes", "refused"} <= rows[0].keys()
    assert yaml.safe_load((run / "config.yaml").read_text())["train"]["batch_size"] == 3
    assert "fc.weight" in torch.load(run / "model.pt", weights_only=True)
    again = _train("mine", *_small(), cwd=tmp_path)
    assert again.returncode == 1
    assert "holds a finished run" in again.stderr.splitlines()[-1]
    longer = _train("mine", *_small("train.num_epoch=2", "resume=true"), cwd=tmp_path)
    assert longer.returncode == 0, longer.stderr
    assert "resumed" in longer.stderr


def test_the_plan_needs_no_data_and_no_other_process(tmp_path: Path) -> None:
    env = {"RANK": "0", "WORLD_SIZE": "8", "LOCAL_RANK": "0"}
    done = _train(str(ROOT / "configs" / "ms1mv3_r50"), "--check", cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "absent" in done.stdout
    assert "8 ranks" in done.stdout
    assert not list(tmp_path.iterdir()), "a check writes nothing"
    silent = _train(str(ROOT / "configs" / "ms1mv3_r50"), "--check", cwd=tmp_path, env={**env, "RANK": "3"})
    assert (silent.returncode, silent.stdout) == (0, "")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim.lrr=0.1"], "did you mean 'optim.lr'"),
        (["data.rec=nowhere"], "nowhere: no such file or folder; expected a packed set"),
        (["data.num_classes=2"], "data.num_classes: the config states 2, "),
        (["data.image_size=64"], "image is 32x32 pixels; expected 64x64"),
        (["validation.val_targets=[lfw]"], "lfw"),
        (["init_from=absent.pt"], "absent.pt"),
        (["output=/proc/nowhere"], "/proc/nowhere: cannot be written"),
    ],
)
def test_bad_input_is_one_line_and_status_1(overrides: list[str], message: str, faces: Path) -> None:
    config = faces.parent / "mine.yaml"
    config.write_text(f"base: {ROOT}/configs/base.yaml\ndata: {{rec: {faces}}}\n")
    done = _train("mine", *_small(*overrides), cwd=faces.parent)
    assert done.returncode == 1
    line = done.stderr.splitlines()[-1]
    assert line.startswith("train_v2: error: ")
    assert message in line
    assert "Traceback" not in done.stderr
    assert not (faces.parent / "work_dirs" / "mine" / "model.pt").exists()


def test_a_corrupt_picture_ends_every_rank_with_its_name(faces: Path, tmp_path: Path) -> None:
    (faces / "p2" / "3.png").write_text("no picture")
    (tmp_path / "mine.yaml").write_text(f"base: {ROOT}/configs/base.yaml\ndata: {{rec: faces}}\n")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(ROOT / "train_v2.py")]
    done = _run(*launch, "mine", *_small("train.batch_size=3"), cwd=tmp_path)
    assert done.returncode == 1
    assert ": faces/p2/3.png" in done.stderr


SYNTHETIC = ["data.rec=synthetic", "data.num_classes=5", "data.num_image=60"]


def _in_process(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    status = main([str(ROOT / "configs/base"), *_small(*SYNTHETIC), *argv])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


@pytest.mark.parametrize("flag", ["--local-rank=1", "--local_rank=1"])
def test_what_the_old_launcher_adds_is_accepted(capsys, monkeypatch, flag) -> None:
    status, text = _in_process(capsys, "--check", flag)
    assert status == 1
    assert "--local-rank 1: the environment says LOCAL_RANK=0" in text
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert _in_process(capsys, "--check", flag)[0] == 0
    assert _in_process(capsys, "--check")[0] == 0, "torchrun sets the environment alone"


def test_the_check_reads_start_weights_and_says_how_long_an_epoch_takes(capsys, tmp_path) -> None:
    save_backbone(build_backbone("tiny", embedding_size=16, image_size=32), tmp_path / "fits.pt")
    status, text = _in_process(capsys, "--check", f"init_from={tmp_path}/fits.pt")
    assert status == 0
    assert " an epoch on this machine, " in text
    status, text = _in_process(capsys, "--check", f"init_from={tmp_path}/fits.pt", "backbone.embedding_size=32")
    assert status == 1
    assert f"{tmp_path}/fits.pt: does not fit the network" in text
    status, text = _in_process(capsys, "--check", f"init_from={tmp_path}/fist.pt")
    assert (status, "fist.pt: not found; expected a run folder, a checkpoint" in text) == (1, True)


def test_the_check_of_a_resumed_run_is_of_its_global_batch(capsys, monkeypatch, tmp_path) -> None:
    run = ["train.batch_size=2", "data.num_workers=0", f"output={tmp_path}/run", "log.tensorboard=false", "--quiet"]
    assert _in_process(capsys, *run)[0] == 0
    assert _in_process(capsys, *run, "train.num_epoch=2", "resume=true", "--check")[0] == 0
    monkeypatch.setenv("WORLD_SIZE", "2")
    status, text = _in_process(capsys, *run, "train.num_epoch=2", "resume=true", "--check")
    assert status == 1
    assert "train.batch_size: 1 image a rank, and the BatchNorm of tiny needs" in text
    assert "run on fewer ranks" in text
