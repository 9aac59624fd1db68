"""The tree keeps its rooms: imports point one way, and scripts start alike."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PATH_LINE = (
    "sys.path[0] = str(Path(__file__).resolve().parent.parent)  # the root, so that no file here shadows the library"
)
SOURCES = sorted(path for folder in ("recognition", "eval", "data_tools") for path in (ROOT / folder).rglob("*.py"))
SCRIPTS = [
    path
    for path in [*SOURCES, *sorted((ROOT / "benchmarks").glob("*.py"))]
    if path.parent.name in {"eval", "data_tools", "benchmarks"} and "__main__" in path.read_text()
]
TORCH_FREE = [
    "recognition.cli",
    "recognition.console",
    "recognition.errors",
    "recognition.files",
    "recognition.registry",
    "recognition.data.recordio",
    "recognition.data.records",
    "recognition.data.pairs_bin",
    "recognition.data.images",
    "data_tools.pack_rec",
    "data_tools.check_rec",
    "data_tools.pack_bin",
    "data_tools.make_pairs",
    "data_tools.unpack_rec",
    "data_tools.convert_rec",
    "data_tools.merge_rec",
    "data_tools.shuffle_rec",
    "data_tools.review_faces",
]


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def _room(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=_room)
def test_imports_point_one_way(path: Path) -> None:
    room, imports = _room(path), _imports(path)
    roots = {name.split(".")[0] for name in imports}
    if room.startswith("recognition/"):
        assert not roots & {"eval", "data_tools", "train_v2"}, "recognition stands below everything"
    if room.startswith("eval/"):
        assert not roots & {"data_tools", "train_v2"}
        assert not [n for n in imports if n.startswith(("recognition.training", "recognition.heads"))]
    if room.startswith("data_tools/"):
        assert not roots & {"eval", "train_v2"}
    if not room.startswith("recognition/distributed/"):
        assert not [n for n in imports if n.startswith("torch.distributed")], "spelled in recognition/distributed only"
    assert not [n for n in imports if n == "eval"], "`import eval.x` rebinds the builtin"


@pytest.mark.parametrize("path", SCRIPTS, ids=_room)
def test_scripts_start_and_end_alike(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "\nimport sys\n" in text
    assert "\nfrom pathlib import Path\n" in text
    assert f"\n{PATH_LINE}\n" in text
    assert text.endswith('if __name__ == "__main__":\n    sys.exit(main())\n')
    assert path.stem not in sys.stdlib_module_names, "a script's folder may come first on the path"


def test_byte_movers_never_import_torch() -> None:
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, *TORCH_FREE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", SCRIPTS, ids=_room)
def test_every_script_explains_itself_from_any_folder(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
