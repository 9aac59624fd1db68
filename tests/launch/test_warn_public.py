"""The line that says that a run can be reached from the internet, and that every launcher prints it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.helpers.places import ROOT


def _module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("warn_public", ROOT / "launch" / "warn_public.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_addresses_of_networks_of_ones_own_are_not_public() -> None:
    private = ["127.0.0.1", "10.1.2.3", "172.16.0.9", "192.168.1.1", "169.254.0.1", "::1", "fe80::1%eth0", "fd00::1"]
    assert _module().public([*private, "no address"]) == []
    assert _module().public([*private, "8.8.8.8", "2001:4860::8888"]) == ["2001:4860::8888", "8.8.8.8"]


def test_the_addresses_of_this_machine_are_found() -> None:
    assert "127.0.0.1" in _module().own_addresses()


def test_the_line_names_what_is_public(monkeypatch: pytest.MonkeyPatch) -> None:
    module = _module()
    monkeypatch.setattr(module, "own_addresses", lambda: ["10.0.0.1"])
    assert module.warning("") == module.warning("127.0.0.1") == ""
    assert module.warning("8.8.8.8").startswith("MASTER_ADDR '8.8.8.8' is the public address 8.8.8.8: torchrun listens")
    monkeypatch.setattr(module, "own_addresses", lambda: ["10.0.0.1", "1.1.1.1"])
    for master in ("", "127.0.0.1"):
        assert module.warning(master).startswith("this host has the address 1.1.1.1: torchrun listens on every")
        assert "\n" not in module.warning(master)


@pytest.mark.parametrize("script", ["single_node.sh", "multi_node.sh"])
def test_a_launcher_prints_it_before_it_starts(script: str, tmp_path: Path) -> None:
    # Stands in for the Python of the run: it answers as a machine with a public address, and starts nothing.
    fake = tmp_path / "python"
    fake.write_text(
        '#!/bin/sh\ncase "$1" in */warn_public.py) printf "seen by %s" "$2";; '
        f'*/check_address.py) exec {sys.executable} "$@";; *) exit 0;; esac\n'
    )
    fake.chmod(0o755)
    settings = {"NNODES": "1", "NODE_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29519"}
    done = subprocess.run(
        [ROOT / "launch" / script, "configs/demo"],
        env={**os.environ, **settings, "PYTHON": str(fake), "NPROC_PER_NODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert f"{script[:-3]}: warning: seen by 127.0.0.1\n" in done.stderr, done.stderr
