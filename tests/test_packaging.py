"""The library is the same in a checkout, installed editable, and from a wheel; what a wheel brings works by itself."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path

import pytest

import recognition
from recognition.__main__ import commands
from tests.helpers.installed import OFFLINE, PIP, build_wheel, copy_source, install_wheel, make_environment, run_outside
from tests.helpers.places import ROOT
from tests.helpers.trees import files_below

pytestmark = pytest.mark.slow
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
    return copy_source(tmp_path_factory.mktemp("source"))


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools", minversion="68", reason="builds the package, with setuptools")
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the scripts' folder of an environment into which the wheel was installed."""
    return install_wheel(wheel, tmp_path_factory.mktemp("installed"))


def test_checkout_editable_install_and_wheel_are_the_same(source: Path, installed: Path, tmp_path: Path) -> None:
    editable = make_environment(tmp_path / "editable") / "python"
    run_outside([*PIP, "--python", str(editable), "install", *OFFLINE, "--editable", str(source)], tmp_path)
    bare = make_environment(tmp_path / "bare") / "python"
    reports = {
        "checkout": json.loads(run_outside([str(bare), "-c", REPORT], tmp_path, PYTHONPATH=str(source))),
        "editable": json.loads(run_outside([str(editable), "-c", REPORT], tmp_path)),
        "wheel": json.loads(run_outside([str(installed / "python"), "-c", REPORT], tmp_path)),
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
    listing = run_outside([str(installed / "arcshard"), "--help"], tmp_path)
    assert listing.startswith("usage: arcshard COMMAND")
    assert all(name in listing and line in listing for name, line in commands().items())
    plan = run_outside([str(installed / "arcshard"), "train", "ms1mv3_r50", "--check"], tmp_path)
    assert "5,179,510 images of 93,431 identities" in plan
    assert not list(tmp_path.iterdir()), "a check writes nothing"


@pytest.mark.long
def test_pip_installs_from_a_repository_and_the_commit_is_known(source: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(source, repository, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    git = ["git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--message=one"]):
        run_outside([*git, *words], tmp_path)
    commit = run_outside([*git, "rev-parse", "HEAD"], tmp_path).strip()
    python = str(make_environment(tmp_path / "environment") / "python")
    run_outside([*PIP, "--python", python, "install", *OFFLINE, f"git+file://{repository}"], tmp_path)
    code = "from recognition.work.revision import find_revision; print(find_revision())"
    assert run_outside([python, "-c", code], tmp_path).strip() == f"version {recognition.__version__}, commit {commit}"
    assert "verify" in run_outside([python, "-m", "recognition"], tmp_path)


@pytest.mark.long
def test_torchrun_trains_from_a_wheel_without_git(installed: Path, tmp_path: Path) -> None:
    settings = ["data.rec=synthetic", "data.num_classes=7", "data.num_image=42", "data.image_size=32", "device=cpu"]
    settings += ["backbone.network=tiny", "backbone.embedding_size=16", "train.batch_size=3", "train.num_epoch=1"]
    settings += ["data.num_workers=1", "log.tensorboard=false", "train.precision=off", "output=run"]
    launch = [str(installed / "python"), "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    run_outside(
        [*launch, "-m", "recognition", "train", "configs/base", *settings], tmp_path, PATH="", OMP_NUM_THREADS="1"
    )
    head = (tmp_path / "run" / "config.yaml").read_text().splitlines()
    assert head[0].startswith("# command: ")
    assert head[0].endswith(f"train configs/base {' '.join(settings)}")
    assert head[1].startswith("# revision: version ")
    assert (tmp_path / "run" / "model.pt").is_file()


def test_a_command_s_workers_start_from_the_script_and_from_the_module(installed: Path, tmp_path: Path) -> None:
    for start in ([str(installed / "arcshard")], [str(installed / "python"), "-m", "recognition"]):
        output = str(tmp_path / f"faces{len(start)}")
        run_outside([*start, "make_faces", output, "--identities", "2", "--images", "2", "--workers", "2"], tmp_path)
    first, second = sorted(tmp_path.glob("faces*"))
    assert files_below(first) == files_below(second)
