"""The names of the files of a cleaning, and the folder they are published in. Torch-free."""

from __future__ import annotations

from pathlib import Path

from recognition.work.work_folder import WorkFolder

DECISIONS, LST, NAMES, SCORES, SUMMARY = (
    "decisions.jsonl",
    "clean.lst",
    "clean.names",
    "scores.png",
    "summary.json",
)
_PRODUCTS = (SCORES, DECISIONS, NAMES, LST, SUMMARY)


def cleaning_folder(output: Path) -> WorkFolder:
    """Return the folder of a cleaning; its summary says that all is there."""
    return WorkFolder(output, ".clean", _PRODUCTS, "a cleaning")


def review_folder(output: Path) -> WorkFolder:
    """Return the same folder while a review is applied to the finished cleaning in it."""
    return WorkFolder(output, ".review", _PRODUCTS, "a cleaning")
