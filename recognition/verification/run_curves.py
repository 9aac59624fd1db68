"""The curves of a training run, from its metrics.jsonl. Torch-free."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np

from recognition.verification.charts import Axis, Series, line_chart, spread

METRICS = "metrics.jsonl"
_TRAIN = {"loss": "loss", "top1": "top-1 on training images", "lr": "learning rate"}
_MAX_FILE_BYTES = 1 << 28
_LARGEST = 1e15  # what an axis is marked for


def run_charts(run: Path) -> list[str]:
    """Return the charts of a run folder as SVG: loss, top-1, learning rate, and accuracy on each validation set.

    Nothing for what is no run. A line that a kill cut short is passed over, as the trainer does.
    """
    records = _records(run / METRICS)
    train = [record for record in records if record.get("kind") == "train"]
    charts = [_chart(title, [(title, _points(train, name))]) for name, title in _TRAIN.items() if _points(train, name)]
    kinds = sorted({str(record.get("kind")) for record in records} - {"train"})
    curves = [(kind, _points([r for r in records if str(r.get("kind")) == kind], "accuracy")) for kind in kinds]
    curves = [(kind, points) for kind, points in curves if points]
    return [*charts, _chart("accuracy on validation sets", curves)] if curves else charts


def _chart(title: str, curves: list[tuple[str, list[tuple[float, float]]]]) -> str:
    series = [Series(name, *np.array(points, dtype=np.float64).T) for name, points in curves]
    steps = spread(np.concatenate([each.x for each in series]), margin=0.0)
    values = spread(np.concatenate([each.y for each in series]), margin=0.05)
    return line_chart(title, series, Axis("step", *steps), Axis("", *values))


def _points(records: list[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    found = ((record.get("step"), record.get(name)) for record in records)
    return [(float(x), float(y)) for x, y in found if _can_be_drawn(x) and _can_be_drawn(y)]


def _can_be_drawn(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and -_LARGEST < value < _LARGEST  # NaN is neither


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file() or path.stat().st_size > _MAX_FILE_BYTES:
        return []
    records = []
    for line in path.read_bytes().splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            records.append(record)
    return records
