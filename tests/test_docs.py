"""The pages are true about the tree: every path they name exists, every link resolves, the versions agree."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

import recognition

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted((ROOT / "docs").rglob("*.md")), *sorted(ROOT.glob("*.md"))]
FOLDERS = ("recognition", "data_tools", "eval", "benchmarks", "launch", "configs", "tests", "docs", ".ci")
TREE = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if "__pycache__" not in path.parts]
NAMES = {path.name for path in [*TREE, *ROOT.iterdir()]}
IMAGINED = re.compile(r"configs/mine(\.yaml)?|(.*/)?(OLD|NAME|hostile|two)\.py")
"""Files of the reader, in examples."""
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
INSIDE = re.compile(rf"(?<![\w/.<-])(?:{'|'.join(map(re.escape, FOLDERS))})/[\w./*-]*[\w*]")
SCRIPT = re.compile(r"(?<![\w/.-])[\w/]+\.(?:py|sh|sbatch)\b")
PAGE_IN_CODE = re.compile(r"(?<![\w/])docs/[\w/]+\.(?:md|svg|jpg|png)")


def _place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _exists(name: str) -> bool:
    """Say whether the tree has a path from the root: a pattern, or a config or module without its suffix, will do."""
    return any(ROOT.glob(name)) or any((ROOT / f"{name}{suffix}").is_file() for suffix in (".yaml", ".py"))


@pytest.mark.parametrize("page", PAGES, ids=_place)
def test_every_link_of_a_page_resolves(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            name, _, anchor = target.partition("#")
            found = page.parent / name if name else page
            assert found.exists(), f"{_place(page)} links to {target}"
            assert not anchor or anchor in _anchors(found), f"{_place(page)} links to {target}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=_place)
def test_every_path_a_page_names_exists(page: Path) -> None:
    text = LINK.sub("", page.read_text(encoding="utf-8"))
    missing = [name for name in INSIDE.findall(text) if not _exists(name) and not IMAGINED.fullmatch(name)]
    scripts = set(SCRIPT.findall(text)) - set(INSIDE.findall(text))
    missing += [name for name in scripts if name.split("/")[-1] not in NAMES and not IMAGINED.fullmatch(name)]
    assert not missing, f"{_place(page)} names {missing}"


def test_every_page_that_the_code_names_exists() -> None:
    named = [
        (_place(path), name)
        for path in [*TREE, ROOT / "Makefile", ROOT / "train_v2.py"]
        if path.suffix in {".py", ".yaml", ".sh", ".sbatch", ""} and path.is_file()
        for name in PAGE_IN_CODE.findall(path.read_text(encoding="utf-8", errors="replace"))
    ]
    assert len(named) > 5, "the code names no pages: the pattern is wrong"
    assert not [(path, name) for path, name in named if not (ROOT / name).is_file()]


def test_every_make_target_a_page_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert named <= targets, f"{_place(page)} names {named - targets}"


def test_the_newest_entry_of_the_changelog_is_the_version() -> None:
    versions = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert versions, "CHANGELOG.md has no entry"
    assert versions[0] == recognition.__version__
    assert versions == sorted(versions, key=lambda v: [int(n) for n in v.split(".")], reverse=True)


@pytest.mark.parametrize("script", ["draw", "draw_losses"])
def test_the_pictures_are_what_the_scripts_draw(script: str) -> None:
    folder = ROOT / "docs/images"
    spec = importlib.util.spec_from_file_location(script, folder / f"{script}.py")
    assert spec is not None and spec.loader is not None
    draw = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(draw)
    for name, picture in draw.PICTURES.items():
        drawn = (folder / name).read_text(encoding="utf-8")
        assert drawn == picture(), f"{name}: run python docs/images/{script}.py"


def test_every_import_points_down_the_rows_of_the_map() -> None:
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    rows = [row[:53].split() for row in page.split("```")[1].strip().splitlines()[:-1]]
    level = {room: number for number, row in enumerate(rows) for room in row}
    assert set(level) == {path.parent.name for path in (ROOT / "recognition").glob("*/__init__.py")}
    for path in sorted((ROOT / "recognition").glob("*/**/*.py")):
        room = path.relative_to(ROOT / "recognition").parts[0]
        text = path.read_text(encoding="utf-8").replace("if TYPE_CHECKING:\n    from", "#")
        for other in set(re.findall(r"^\s*from recognition\.(\w+)", text, re.MULTILINE)) & set(level) - {room}:
            assert level[other] > level[room], f"{_place(path)} imports {other}; change the map or the import"
