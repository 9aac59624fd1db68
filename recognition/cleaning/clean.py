"""A whole cleaning: thresholds, steps, and the files they make, in a folder from which they are published."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from recognition.cleaning.against import SetEmbedder
from recognition.cleaning.calibration import Calibration, calibrate
from recognition.cleaning.context import Context
from recognition.cleaning.drawing import can_draw, draw_scores
from recognition.cleaning.held_back import put_with_others
from recognition.cleaning.output_folder import DECISIONS, LST, NAMES, SCORES, SUMMARY, review_folder
from recognition.cleaning.outputs import count_decisions, write_decisions, write_lst
from recognition.cleaning.pictures import Pictures
from recognition.cleaning.review import Verdict, apply_review
from recognition.cleaning.settings import THRESHOLD_STEPS, CleanSettings, Machine
from recognition.cleaning.steps import STEP_FUNCTIONS, reports_as_json, run_steps
from recognition.errors import DataError
from recognition.formats.class_names import write_class_names

logger = logging.getLogger(__name__)

assert set(STEP_FUNCTIONS) == {*THRESHOLD_STEPS, "small"}


@dataclass(frozen=True)
class Review:
    """What a person decided, and the file that says so."""

    path: Path
    verdicts: Mapping[str, Verdict]


def clean(
    pictures: Pictures, settings: CleanSettings, work: Path, *, machine: Machine, review: Review | None
) -> tuple[dict[str, Any], list[str]]:
    """Run the steps and write the files of the result into `work`; return the summary and the files' names.

    What an earlier, killed run with these settings finished in `work` is not done again.
    """
    embed_set, num_tested = None, 0
    if settings.against:
        assert settings.model is not None, "test sets need a network"
        fingerprint = pictures.model["model_fingerprint"]
        embed_set = SetEmbedder(work, settings.model, settings.network, machine, fingerprint, settings.asked)
        for number, path in enumerate(settings.against):
            num_tested += len(embed_set(path, number))  # first: what is wrong shows before the long work
    calibration = _calibration(pictures, settings)
    context = _context(pictures, settings, calibration, embed_set, num_tested, machine)
    held_back = None if calibration is None else put_with_others(context)
    context = replace(context, held_back=held_back)
    decisions, reports = run_steps(context, settings.steps, work)
    with open(work / DECISIONS, "w", encoding="ascii") as handle:
        write_decisions(handle, context, decisions)
    summary = {
        "settings": settings.as_json(),
        "model": pictures.model,
        "thresholds": _thresholds(settings, context),
        "calibration": None if calibration is None else calibration.as_json(),
        "held_back": None if held_back is None else asdict(held_back),
        "steps": reports_as_json(reports),
    }
    names = _finish(work, summary, review)
    if calibration is not None and can_draw():
        (work / SCORES).write_bytes(draw_scores(calibration, context.thresholds))
        names.insert(0, SCORES)
    return summary, names


def review_again(output: Path, settings: CleanSettings, review: Review) -> dict[str, Any]:
    """Apply a review to a finished cleaning and publish it; return the new summary.

    Raises DataError when the cleaning was started with other settings than `settings`.
    """
    summary: dict[str, Any] = json.loads((output / SUMMARY).read_text(encoding="utf-8"))
    old, new = summary["settings"], settings.as_json()
    differing = sorted(name for name in new if old.get(name) != new[name])
    if differing:
        raise DataError(
            f"{output}: was made with another {', '.join(differing)}; expected the same to review it; pass the same "
            "flags, or --overwrite to clean from the beginning"
        )
    folder = review_folder(output)
    shutil.rmtree(folder.path, ignore_errors=True)  # of a killed run: it is done anew
    try:
        with folder.hold():
            shutil.copyfile(output / DECISIONS, folder.path / DECISIONS)
            folder.publish(_finish(folder.path, summary, review))
    finally:
        shutil.rmtree(folder.path, ignore_errors=True)
    return summary


def _calibration(pictures: Pictures, settings: CleanSettings) -> Calibration | None:
    """Return the calibration; None when all thresholds are given and the set is too small for one."""
    try:
        return calibrate(pictures, seed=settings.seed)
    except DataError:
        if settings.needs_calibration:
            raise
        return None


def _context(
    pictures: Pictures,
    settings: CleanSettings,
    calibration: Calibration | None,
    embed_set: SetEmbedder | None,
    num_tested: int,
    machine: Machine,
) -> Context:
    found = {}
    if calibration is not None:
        num_identities = int((np.bincount(pictures.labels) > 1).sum())  # single pictures are not merged, nor moved to
        found = calibration.thresholds(num_identities=num_identities, num_tested=num_tested)
    thresholds = {**found, **settings.given}
    # Without histograms nothing says how far is far; half the way to a cosine of one is a guess.
    spread = calibration.spread() if calibration else max(1e-3, (1 - min([*thresholds.values(), 0.9])) / 2)
    return Context(pictures, thresholds, spread, settings, machine, embed_set, calibration)


def _thresholds(settings: CleanSettings, context: Context) -> dict[str, dict[str, Any]]:
    return {
        step: {"cosine": value, "from": "flag" if step in settings.given else "calibration"}
        for step, value in context.thresholds.items()
        if step in settings.steps or (step == "far" and "within" in settings.steps)
    }


def _finish(work: Path, summary: dict[str, Any], review: Review | None) -> list[str]:
    """Apply the review to the decisions in `work`, write list and summary beside them, and return the files' names."""
    if review is not None:
        with open(work / "reviewed.jsonl", "w", encoding="ascii") as handle:
            apply_review(work / DECISIONS, handle, review.verdicts, review.path)
        (work / "reviewed.jsonl").replace(work / DECISIONS)
    with open(work / LST, "w", encoding="utf-8", errors="surrogateescape") as handle:
        names = write_lst(work / DECISIONS, handle)
    if not write_class_names(work / NAMES, dict(enumerate(names))):
        (work / NAMES).write_bytes(b"")  # one that no line can hold: better none than those of the pictures' folders
    summary |= {**count_decisions(work / DECISIONS), "review": None if review is None else str(review.path.resolve())}
    (work / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return [DECISIONS, NAMES, LST, SUMMARY]
