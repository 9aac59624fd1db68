"""The tree keeps its rooms: imports point one way, the doors are alike, and a library import costs little."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import recognition
from tests.helpers.places import ROOT

PATH_LINE = "sys.path[0] = str(Path(__file__).resolve().parent{})  # the root, so that no file here shadows the library"
SOURCES = sorted((ROOT / "recognition").rglob("*.py"))
DOORS = [*sorted((ROOT / "data_tools").glob("*.py")), *sorted((ROOT / "eval").glob("*.py")), ROOT / "train_v2.py"]
BENCHMARKS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]
LOOSE = {"__init__", "__main__", "cli", "console", "errors", "registry"}
NEVER = {
    "formats": {"config", "feed"},
    "images": {"feed"},
    "config": {"backbones", "heads"},
    "heads": {"config"},
    "*": {"commands"},
}
"""Room -> the rooms it never imports, besides what the absence of circles forbids."""
TORCH_FREE = [
    "recognition",
    "recognition.__main__",
    "recognition.cli",
    "recognition.console",
    "recognition.errors",
    "recognition.registry",
    "recognition.work.files",
    "recognition.formats.recordio",
    "recognition.formats.records",
    "recognition.formats.pairs_bin",
    "recognition.images.codec",
    "recognition.commands.pack_rec",
    "recognition.commands.check_rec",
    "recognition.commands.pack_bin",
    "recognition.commands.make_pairs",
    "recognition.commands.unpack_rec",
    "recognition.commands.convert_rec",
    "recognition.commands.merge_rec",
    "recognition.commands.shuffle_rec",
    "recognition.commands.review_faces",
]


def imports_of(path: Path) -> set[str]:
    """Return every dotted name that a file imports; what stands under `if TYPE_CHECKING` is no import."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    ignored: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            ignored |= {inner for statement in node.body for inner in ast.walk(statement)}
    names = set()
    for node in ast.walk(tree):
        if node in ignored:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return names


def room_of(path: Path) -> str:
    """Return the room of a file of recognition/; "" for the modules that are loose in it."""
    parts = path.relative_to(ROOT / "recognition").parts
    return parts[0] if len(parts) > 1 else ""


def rooms_imported(path: Path) -> set[str]:
    """Return the rooms that a file imports from, without its own."""
    names = [name.split(".") for name in imports_of(path) if name.startswith("recognition.")]
    rooms = {parts[1] for parts in names if (ROOT / "recognition" / parts[1]).is_dir()}
    return rooms - {room_of(path)}


def _place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=_place)
def test_imports_point_one_way(path: Path) -> None:
    imports, room = imports_of(path), room_of(path)
    assert not {name.split(".")[0] for name in imports} & {"eval", "data_tools", "train_v2", "tests"}
    forbidden = NEVER.get(room, set()) | (NEVER["*"] if path.name != "__main__.py" else set())
    assert not rooms_imported(path) & (forbidden - {room})
    if room != "distributed":
        assert not [n for n in imports if n.startswith("torch.distributed")], "spelled in recognition/distributed only"


def test_no_room_imports_another_in_a_circle() -> None:
    graph: dict[str, set[str]] = {}
    for path in SOURCES:
        if room_of(path):
            graph.setdefault(room_of(path), set()).update(rooms_imported(path))
    order: list[str] = []
    while graph:
        free = sorted(room for room, below in graph.items() if not below & set(graph))
        assert free, f"a circle among {sorted(graph)}: {graph}"
        order += free
        for room in free:
            del graph[room]
    assert order[-1] == "commands", "the top of the house"


def test_nothing_is_loose_and_no_room_is_crowded() -> None:
    assert {path.stem for path in SOURCES if not room_of(path)} == LOOSE
    lines: dict[str, int] = {}
    for path in SOURCES:
        lines[room_of(path)] = lines.get(room_of(path), 0) + path.read_text(encoding="utf-8").count("\n")
    total = sum(lines.values())
    crowded = {room: n for room, n in lines.items() if room != "commands" and n > 0.15 * total}
    assert not crowded, f"of {total} lines"


def test_no_test_imports_another() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        loaded = [n for n in imports_of(path) if n.startswith("tests.") and n.split(".")[-1].startswith("test_")]
        assert not loaded, f"{_place(path)} imports {loaded}; what two tests need belongs into tests/helpers"


@pytest.mark.parametrize("path", [*DOORS, *BENCHMARKS], ids=_place)
def test_doors_start_and_end_alike(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    up = "" if path.parent == ROOT else ".parent"
    assert "\nimport sys\n" in text
    assert f"\n{PATH_LINE.format(up)}\n" in text
    assert text.endswith('if __name__ == "__main__":\n    sys.exit(main())\n')
    assert path.stem not in sys.stdlib_module_names, "a script's folder may come first on the path"


@pytest.mark.parametrize("path", DOORS, ids=_place)
def test_a_door_is_ten_lines_and_has_its_command_s_line(path: Path) -> None:
    name = "train" if path.stem == "train_v2" else path.stem
    text = path.read_text(encoding="utf-8")
    code = ast.parse(text).body[1:]
    assert sum(statement.end_lineno - statement.lineno + 1 for statement in code) <= 10  # type: ignore[operator]
    assert f"from recognition.commands.{name} import main" in text
    command = ast.get_docstring(ast.parse((ROOT / f"recognition/commands/{name}.py").read_text(encoding="utf-8")))
    assert (ast.get_docstring(ast.parse(text)) or "").split("\n")[0] == (command or "").split("\n")[0]


def test_what_moves_bytes_never_imports_torch() -> None:
    code = (
        "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
        "assert 'torch' not in sys.modules"
    )
    command = [sys.executable, "-c", code, *TORCH_FREE]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", [name for name in recognition.__all__ if name != "__version__"])
def test_a_public_name_is_where_the_library_says(name: str) -> None:
    assert getattr(recognition, name).__name__ == name
    assert getattr(recognition, name).__doc__


@pytest.mark.slow
@pytest.mark.parametrize("path", [*DOORS, *BENCHMARKS], ids=_place)
def test_every_script_explains_itself_from_any_folder(path: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(path), "--help"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
