"""README is true: its code blocks run, and the table of commands is the list of commands.

A block that opens with ```sh or ```python is run here. One that opens with ``` alone is not, and NOT_RUN says why.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from recognition.__main__ import commands
from tests.helpers.places import ROOT

PAGES = [ROOT / "README.md"]  # docs/library.md, whose blocks are one program, has tests/test_library_page.py
NOT_RUN = {
    "pip install git+URL": "needs the network; tests/test_packaging.py installs a wheel and runs its commands",
    "git clone URL arcshard": "needs the network; .ci/run sets up a checkout",
    "make demo": "minutes; .ci/run runs a tenth of it",
    "make align": "needs the network and photos of real people",
    "make export-tools": "needs the network; tests/recognition/commands/test_export.py runs the commands",
    "torchrun --nproc_per_node=8 train_v2.py configs/ms1mv3_r50": "needs eight GPUs and a data set",
    "recognition/": "the tree, not code",
}
"""A block's first line, up to its comment -> why the block is not run."""
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINKED = ("recognition", "data_tools", "eval", "configs", "train_v2.py")


def _blocks(page: Path) -> list[tuple[str, str]]:
    """Return (language, code) of each code block of a page."""
    text = page.read_text(encoding="utf-8")
    assert text.count("\n```") == 2 * len(BLOCK.findall(text)), f"{page}: a block is indented or does not end"
    return BLOCK.findall(text)


BLOCKS = [
    pytest.param(language, code, id=f"{page.stem}-{number}-{language or 'plain'}")
    for page in PAGES
    for number, (language, code) in enumerate(_blocks(page))
]


def _run(command: list[str], folder: Path) -> None:
    """Run `command` in a folder that looks like the checkout, so that what it writes is not left there."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(folder)}
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("language", "code"), [block for block in BLOCKS if block.values[0] == "python"])
def test_a_program_runs_as_printed(language: str, code: str, tmp_path: Path) -> None:
    _run([sys.executable, "-c", code], tmp_path)


@pytest.mark.long
@pytest.mark.parametrize(("language", "code"), [block for block in BLOCKS if block.values[0] == "sh"])
def test_commands_run_as_printed(language: str, code: str, tmp_path: Path) -> None:
    _run(["bash", "-euo", "pipefail", "-c", code], tmp_path)


def test_every_other_block_has_a_reason_not_to_run() -> None:
    plain = []
    for page in PAGES:
        for language, code in _blocks(page):
            assert language in ("", "sh", "python"), f"{page.name}: a block in {language}: run it or give a reason"
            plain += [] if language else [re.split(r"\s{2,}|\n", code.strip())[0]]
    assert set(plain) - NOT_RUN.keys() == set(), "mark them as sh or python, or say in NOT_RUN why they are not run"
    assert NOT_RUN.keys() - set(plain) == set(), "no page has these blocks"


def test_the_table_of_commands_is_the_list_of_commands() -> None:
    rows = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n| command |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == commands().keys()
