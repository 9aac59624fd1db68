"""A folder of crops: what an error leaves of work that was begun."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from recognition.detection.crop_folder import CropFolder
from recognition.errors import DataError


def _fail(output: Path, *, crop: bool, done: bool) -> CropFolder:
    """Begin with the settings a=1, perhaps write a crop and note it, and end in an error."""
    folder = CropFolder(output, "align")
    folder.check([], overwrite=False)
    with contextlib.suppress(KeyboardInterrupt), folder.journal({"a": 1}, [], overwrite=False) as journal:
        if crop:
            (output / "1.jpg").write_bytes(b"crop")
        if done:
            journal.append("1.jpg", {"status": "ok", "faces": []})
        raise KeyboardInterrupt
    return folder


def test_an_error_before_anything_was_done_leaves_nothing(tmp_path: Path) -> None:
    _fail(tmp_path / "out", crop=False, done=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("done", [False, True])
def test_what_was_done_is_gone_on_with(done: bool, tmp_path: Path) -> None:
    """A crop that no line tells of yet must not make the folder look like somebody else's."""
    folder = _fail(tmp_path / "out", crop=True, done=done)
    folder.check([], overwrite=False)
    with folder.journal({"a": 1}, [], overwrite=False) as journal:
        assert list(journal.done) == ["1.jpg"] * done
        journal.append("2.jpg", {"status": "ok", "faces": []})
        folder.publish(journal)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1.jpg", "align.jsonl"]
    with pytest.raises(DataError, match="out: holds crops already; expected a new OUT"):
        folder.check([], overwrite=False)
