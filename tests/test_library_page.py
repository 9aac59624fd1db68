"""Every block of docs/library.md runs as it is printed."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
_BLOCK = re.compile(r"^```(python|bash)(?: (file|after)=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(kind: str) -> list[tuple[str, str]]:
    """Return (name of a file or "", text) of the page's blocks of a kind: run, file, after or bash."""
    page = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    found = []
    for language, role, name, text in _BLOCK.findall(page):
        if kind == (language if language == "bash" else role or "run"):
            found.append((name, text))
    return found


def run_all(texts: list[str]) -> dict[str, Any]:
    names: dict[str, Any] = {"__name__": "library"}
    for text in texts:
        exec(compile(text, "docs/library.md", "exec"), names)
    return names


@pytest.mark.slow
def test_the_blocks_run_one_after_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names = run_all([text for _, text in blocks("run")])
    assert names["result"].target_cosine_N.shape == (32,)
    assert names["vectors"].shape == (4, 128)


@pytest.mark.slow
def test_the_script_of_two_processes_runs_and_one_reads_its_centers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (name, script), ((_, command),) = blocks("file")[0], blocks("bash")
    (tmp_path / name).write_text(script)
    assert command == f"torchrun --nproc_per_node=2 {name}\n"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torchrun = [sys.executable, "-m", "torch.distributed.run", f"--master_port={port}", "--nproc_per_node=2", name]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        torchrun, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.fullmatch(r"loss \d+\.\d{3}\n", done.stdout)
    monkeypatch.chdir(tmp_path)
    imports = "from recognition import ArcFace, ShardedSoftmax, load_head\n"
    names = run_all([imports, *(text for _, text in blocks("after"))])
    assert names["head"].steps == 5
    assert names["head"].centers.shape == (100, 64)


def test_no_block_is_passed_over() -> None:
    page = (ROOT / "docs/library.md").read_text(encoding="utf-8")
    assert len(_BLOCK.findall(page)) == page.count("```") // 2
