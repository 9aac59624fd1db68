"""What a run says of the code that it ran: asked of git in a checkout alone."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from recognition import __version__
from recognition.work.revision import find_revision

VERSION = f"version {__version__}"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a folder under git with one commit, tagged, that holds a package."""
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "recognition").mkdir()
    try:
        subprocess.run([*git, "init", "--quiet"], check=True)
    except FileNotFoundError:
        pytest.skip("git is not installed")
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message=one"], check=True)
    subprocess.run([*git, "tag", "-a", "v9", "--message=nine"], check=True)
    return tmp_path


def test_a_checkout_is_described_by_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_revision(repository / "recognition") == "v9"
    monkeypatch.setenv("PATH", "")
    assert find_revision(repository / "recognition") == VERSION


def test_the_repository_around_an_environment_is_not_the_library_s(repository: Path) -> None:
    package = repository / "env" / "site-packages" / "recognition"
    package.mkdir(parents=True)
    assert find_revision(package) == VERSION


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        ({"url": "https://host/a.git", "vcs_info": {"vcs": "git", "commit_id": "12ab"}}, f"{VERSION}, commit 12ab"),
        ({"url": "file:///a.whl", "archive_info": {}}, VERSION),
    ],
)
def test_what_pip_wrote_down_is_believed(tmp_path: Path, origin: dict[str, object], expected: str) -> None:
    written = tmp_path / f"arcshard-{__version__}.dist-info"
    written.mkdir()
    (written / "METADATA").write_text(f"Metadata-Version: 2.1\nName: arcshard\nVersion: {__version__}\n")
    (written / "direct_url.json").write_text(json.dumps(origin))
    assert find_revision(tmp_path / "recognition") == expected
