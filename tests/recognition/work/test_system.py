"""What not every operating system has: what is done without it, and that every command starts without it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from recognition.training.interrupts import Interrupts, ignore_save_requests
from recognition.work import system
from tests.helpers.poorer_systems import MACOS_AND_LESS, ROOT, WINDOWS, run_on

ABSENT = """
import os, signal, sys, multiprocessing
for name in ("sched_getaffinity", "posix_fallocate", "posix_fadvise", "memfd_create"):
    assert not hasattr(os, name), name
assert not hasattr(signal, "SIGUSR1") and "forkserver" not in multiprocessing.context._concrete_contexts
"""
HELP = (
    ABSENT
    + """
from recognition.__main__ import commands, main
for name in commands():
    try:
        main([name, "--help"])
    except SystemExit as end:
        assert end.code == 0, name
"""
)
IMPORTS = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
DEMO = (
    ABSENT
    + """
from recognition.__main__ import main
if __name__ == "__main__":
    for line in sys.argv[1:]:
        assert main([*line.split(), "--quiet"]) == 0, line
"""
)
TRAIN = (
    f"train {ROOT}/configs/demo data.rec=data/train.rec validation.val_dir=data train.num_epoch=2 device=cpu "
    "train.batch_size=6 optim.warmup_epoch=0"
)
DEMO_COMMANDS = [
    "make_faces data/people --identities 6 --images 6 --seed 1",
    "make_faces data/strangers --identities 20 --images 4 --first-identity 100000 --seed 1",
    "pack_rec data/people data/train",
    "make_pairs data/strangers data/pairs.txt --pairs 40",
    "pack_bin data/pairs.txt data/strangers data/unseen.bin",
    f"{TRAIN} output=run",
    f"{TRAIN} output=again data.num_workers=1",
    "verify run data/unseen.bin --device cpu",
]


@pytest.fixture
def poorer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the names away from this process, for what is looked up when it is used."""
    for name in ("sched_getaffinity", "posix_fallocate", "posix_fadvise", "memfd_create"):
        monkeypatch.delattr(os, name)
    monkeypatch.delattr(signal, "SIGUSR1")
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.setitem(sys.modules, "resource", None)


def test_without_the_system_s_help_the_answers_are_as_good_as_they_can_be(poorer: None, tmp_path: Path) -> None:
    assert system.usable_cores() == os.cpu_count()
    assert system.peak_resident_bytes() == 0
    descriptor = system.anonymous_file(1000)
    assert os.pread(descriptor, 2000, 0) == bytes(1000)
    os.close(descriptor)
    assert system.save_signal() is None
    ignore_save_requests()
    with Interrupts().listening():
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    with open(tmp_path / "lock", "wb") as one, open(tmp_path / "lock", "wb") as other:
        system.lock_file(one, wait=False)
        system.lock_file(other, wait=False)


def test_space_is_claimed_by_writing_where_it_cannot_be_asked_for(poorer: None, tmp_path: Path) -> None:
    vectors = np.lib.format.open_memmap(tmp_path / "v.npy", mode="w+", dtype=np.float32, shape=(3 << 10, 256))
    vectors[-1] = 3
    vectors.flush()
    before = (tmp_path / "v.npy").read_bytes()
    sparse = (tmp_path / "v.npy").stat().st_blocks * 512
    system.claim_space(tmp_path / "v.npy")
    assert (tmp_path / "v.npy").read_bytes() == before
    assert sparse < len(before) <= (tmp_path / "v.npy").stat().st_blocks * 512, "a file with holes has them no more"


def test_a_lock_is_one_process_s(tmp_path: Path) -> None:
    with open(tmp_path / "lock", "wb") as one, open(tmp_path / "lock", "wb") as other:
        system.lock_file(one, wait=False)
        with pytest.raises(BlockingIOError):
            system.lock_file(other, wait=False)


def test_the_names_are_spelled_in_one_place() -> None:
    """What else in the library names them would not be guarded."""
    names = (
        "sched_getaffinity", "posix_fallocate", "posix_fadvise", "fcntl", "SIGUSR1", "forkserver", "memfd_create",
        "import resource", "getrusage",
    )  # fmt: skip
    for path in sorted((ROOT / "recognition").rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        spelled = [name for name in names if f"os.{name}" in text or f"signal.{name}" in text or f'"{name}"' in text]
        spelled += [name for name in ("import fcntl", "import resource", "from fcntl") if name in text]
        assert not spelled or path.name == "system.py", f"{path}: {spelled}"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MACOS_AND_LESS", "WINDOWS"])
def test_every_command_explains_itself_on_a_poorer_system(name: str, tmp_path: Path) -> None:
    done = run_on({"MACOS_AND_LESS": MACOS_AND_LESS, "WINDOWS": WINDOWS}[name], HELP, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("usage:") == len(list((ROOT / "recognition" / "commands").glob("[!_]*.py")))


@pytest.mark.slow
def test_every_module_is_imported_on_a_poorer_system(tmp_path: Path) -> None:
    modules = []
    for path in sorted((ROOT / "recognition").rglob("[!_]*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        if "\nimport triton" not in path.read_text(encoding="utf-8"):  # which no such system has
            modules.append(name)
    done = run_on(WINDOWS, IMPORTS, *modules, folder=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_demo_runs_where_only_one_process_trains(tmp_path: Path) -> None:
    done = run_on(MACOS_AND_LESS, DEMO, *DEMO_COMMANDS, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "unseen" in done.stdout
    one, other = (torch.load(tmp_path / name / "model.pt", weights_only=True) for name in ("run", "again"))
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one), (
        "as without a loader"
    )
