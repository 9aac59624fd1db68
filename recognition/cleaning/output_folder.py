"""The folder a cleaning is published in: refused when it holds something else, filled by renames. Torch-free."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from recognition.errors import DataError
from recognition.work.files import sync_file
from recognition.work.journal import LOCK, SETTINGS, hold, is_under_way, remove_work

DECISIONS, LST, SCORES, SUMMARY = "decisions.jsonl", "clean.lst", "scores.png", "summary.json"
WORK, REVIEW_WORK = ".clean", ".review"


def is_finished(output: Path) -> bool:
    """Return whether `output` holds a whole cleaning; one killed while it was published still has its work folder."""
    return (output / SUMMARY).is_file() and not is_under_way(output / WORK)


def make_room(output: Path, *, overwrite: bool) -> Path:
    """Return the work folder in `output`, new or of a killed run; DataError when the output holds anything else."""
    if overwrite:
        for name in (SUMMARY, DECISIONS, LST, SCORES):
            (output / name).unlink(missing_ok=True)
        shutil.rmtree(output / REVIEW_WORK, ignore_errors=True)
        if (output / WORK).is_dir():
            with hold(output / WORK):
                remove_work(output / WORK)
    elif is_finished(output):
        raise DataError(f"{output}: holds a cleaning already; expected a new OUT; pass --overwrite to replace it")
    if output.is_dir() and not (output / WORK).is_dir() and any(output.iterdir()):
        raise DataError(f"{output}: is not empty; expected a new folder, or one this command began; choose another")
    try:
        (output / WORK).mkdir(parents=True, exist_ok=True)
    except OSError as err:
        raise DataError(f"{output}: cannot be written ({err.strerror or err}); choose a writable folder") from err
    return output / WORK


def give_up(work: Path) -> None:
    """Remove the work folder of a run that ended in an error before it finished anything, and what it is alone in."""
    if {path.name for path in work.iterdir()} <= {SETTINGS, LOCK}:
        shutil.rmtree(work)
        if not any(work.parent.iterdir()):
            work.parent.rmdir()


def publish(work: Path, output: Path, names: Sequence[str]) -> None:
    """Rename files out of the work folder, the summary last, and remove it."""
    assert names[-1] == SUMMARY, "the summary says that all is there"
    try:
        for name in names:
            sync_file(work / name)
        for name in names:
            os.replace(work / name, output / name)
    except OSError as err:
        raise DataError(f"{output}: cannot be written ({err.strerror or err}); check space and permissions") from err
    remove_work(work)
