"""The library is the same in a checkout, installed editable, and from a wheel; what a wheel brings works by itself."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

import recognition
from recognition.__main__ import commands
from tests.helpers.places import ROOT
from tests.helpers.trees import files_below

pytestmark = pytest.mark.slow
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
OFFLINE = ["--no-deps", "--no-build-isolation", "--no-index"]
REPORT = """
import hashlib, json, os, sys
import recognition
import recognition
from recognition.__main__ import commands
assert "torch" not in sys.modules, "import recognition costs no torch"
from recognition.config.loader import ROOT, find_config
configs = {}
paths = (path for path in (ROOT / "configs").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
for name in sorted(path.relative_to(ROOT / "configs").as_posix() for path in paths):
    path = find_config("configs/" + name)
    assert path == find_config(name.removesuffix(".yaml")) == find_config("configs/" + name.removesuffix(".yaml"))
    configs[name] = hashlib.sha256(path.read_bytes()).hexdigest()
package = os.path.dirname(recognition.__file__)
files = {}
for folder, _, names in os.walk(package):
    for name in names:
        place = os.path.relpath(os.path.join(folder, name), package)
        if "__pycache__" not in place and not place.startswith("configs"):
            files[place] = hashlib.sha256(open(os.path.join(folder, name), "rb").read()).hexdigest()
print(json.dumps({"package": package, "version": recognition.__version__, "commands": commands(),
                  "configs": configs, "files": files}))
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of what a build reads, so that none is left in the checkout."""
    folder = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("recognition", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="68", reason="builds the package, with setuptools")
    folder = tmp_path_factory.mktemp("wheel")
    _run([*PIP, "wheel", *OFFLINE, "--wheel-dir", str(folder), str(source)], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scripts' folder of an environment into which the wheel was installed."""
    scripts = _environment(tmp_path_factory.mktemp("installed"))
    _run([*PIP, "--python", str(scripts / "python"), "install", *OFFLINE, str(wheel)], wheel.parent)
    return scripts


def _environment(folder: Path) -> Path:
    """Make an environment that borrows this one's dependencies, but not its editable library; return its bin/."""
    venv.create(folder, with_pip=False, symlinks=True)
    (own,) = folder.glob("lib/*/site-packages")
    (own / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return folder / "bin"


def _run(command: list[str], cwd: Path, **environment: str) -> str:
    """Run `command`, which must succeed, as a user would who has no checkout on any path; return its stdout."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=own | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_checkout_editable_install_and_wheel_are_the_same(source: Path, installed: Path, tmp_path: Path) -> None:
    editable = _environment(tmp_path / "editable") / "python"
    _run([*PIP, "--python", str(editable), "install", *OFFLINE, "--editable", str(source)], tmp_path)
    bare = _environment(tmp_path / "bare") / "python"
    reports = {
        "checkout": json.loads(_run([str(bare), "-c", REPORT], tmp_path, PYTHONPATH=str(source))),
        "editable": json.loads(_run([str(editable), "-c", REPORT], tmp_path)),
        "wheel": json.loads(_run([str(installed / "python"), "-c", REPORT], tmp_path)),
    }
    homes = {name: report.pop("package") for name, report in reports.items()}
    assert homes["checkout"] == homes["editable"] == str(source / "recognition")
    assert homes["wheel"].startswith(str(installed.parent))
    assert reports["checkout"] == reports["editable"] == reports["wheel"]
    assert reports["wheel"]["commands"] == commands()
    assert {"py.typed", "cleaning/page/index.html"} < reports["wheel"]["files"].keys()
    folder = ROOT / "configs"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")}
    assert set(reports["wheel"]["configs"]) == found


def test_the_wheel_holds_the_library_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].partition("-")[0] for name in names} == {"recognition", "arcshard"}


def test_an_installed_command_explains_itself_and_plans(installed: Path, tmp_path: Path) -> None:
    listing = _run([str(installed / "arcshard"), "--help"], tmp_path)
    assert listing.startswith("usage: arcshard COMMAND")
    assert all(name in listing and line in listing for name, line in commands().items())
    plan = _run([str(installed / "arcshard"), "train", "ms1mv3_r50", "--check"], tmp_path)
    assert "5,179,510 images of 93,431 identities" in plan
    assert not list(tmp_path.iterdir()), "a check writes nothing"


@pytest.mark.long
def test_pip_installs_from_a_repository_and_the_commit_is_known(source: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(source, repository, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=one"]):
        _run([*git, *words], tmp_path)
    commit = _run([*git, "rev-parse", "HEAD"], tmp_path).strip()
    python = str(_environment(tmp_path / "environment") / "python")
    _run([*PIP, "--python", python, "install", *OFFLINE, f"git+file://{repository}"], tmp_path)
    code = "from recognition.work.revision import find_revision; print(find_revision())"
    assert _run([python, "-c", code], tmp_path).strip() == f"version {recognition.__version__}, commit {commit}"
    assert "verify" in _run([python, "-m", "recognition"], tmp_path)


@pytest.mark.long
def test_torchrun_trains_from_a_wheel_without_git(installed: Path, tmp_path: Path) -> None:
    settings = ["data.rec=synthetic", "data.num_classes=7", "data.num_image=42", "data.image_size=32", "device=cpu"]
    settings += ["backbone.network=tiny", "backbone.embedding_size=16", "train.batch_size=3", "train.num_epoch=1"]
    settings += ["data.num_workers=1", "log.tensorboard=false", "train.precision=off", "output=run"]
    launch = [str(installed / "python"), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    _run([*launch, "-m", "recognition", "train", "configs/base", *settings], tmp_path, PATH="", OMP_NUM_THREADS="1")
    head = (tmp_path / "run" / "config.yaml").read_text().splitlines()
    assert head[0].startswith("# command: ")
    assert head[0].endswith(f"train configs/base {' '.join(settings)}")
    assert head[1].startswith("# revision: version ")
    assert (tmp_path / "run" / "model.pt").is_file()


def test_a_command_s_workers_start_from_the_script_and_from_the_module(installed: Path, tmp_path: Path) -> None:
    for start in ([str(installed / "arcshard")], [str(installed / "python"), "-m", "recognition"]):
        output = str(tmp_path / f"faces{len(start)}")
        _run([*start, "make_faces", output, "--identities", "2", "--images", "2", "--workers", "2"], tmp_path)
    first, second = sorted(tmp_path.glob("faces*"))
    assert files_below(first) == files_below(second)
