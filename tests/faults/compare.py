"""Whether two runs ended as the same run: weights, centers, momentum and the whole loss curve, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor


def difference(run: Path, reference: Path) -> str:
    """Return the first thing in which `run` is not the undisturbed `reference`, or "" when they are equal."""
    for compare in (_models, _checkpoints, _curves):
        found = compare(run, reference)
        if found:
            return found
    leftovers = sorted(path.name for path in run.rglob("*.part"))
    return f"leftovers {leftovers}" if leftovers else ""


def curve(run: Path) -> list[tuple[int, str, Any]]:
    """Return (step, kind, loss or accuracy) of every line of metrics.jsonl, in order."""
    lines = (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [(row["step"], row["kind"], row.get("loss", row.get("accuracy"))) for row in map(json.loads, lines)]


def last_step(run: Path) -> int:
    """Return the newest step that the run has reported, -1 before the first."""
    try:
        lines = (run / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()
    except OSError:
        return -1
    return int(json.loads(lines[-1])["step"]) if lines else -1


def newest_checkpoint(run: Path) -> Path | None:
    """Return the folder of the highest step below run/checkpoints, complete or not."""
    found = sorted((run / "checkpoints").glob("step_*"))
    return found[-1] if found else None


def tensors_of(checkpoint: Path) -> dict[str, Tensor]:
    """Return every tensor of a checkpoint under `file/name`, read file by file as they lie there."""
    return {
        f"{path.name}/{name}": tensor
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def first_unequal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Return what differs first, or ""; a NaN equals the same NaN."""
    if found.keys() != expected.keys():
        return f"the names {sorted(found.keys() ^ expected.keys())} are in one of the two alone"
    for name, tensor in expected.items():
        own = found[name]
        if own.dtype != tensor.dtype or own.shape != tensor.shape:
            return f"{name} is {own.dtype} {list(own.shape)}; expected {tensor.dtype} {list(tensor.shape)}"
        if own.contiguous().view(-1).view(torch.uint8).ne(tensor.contiguous().view(-1).view(torch.uint8)).any():
            return f"{name} differs, by {(own.double() - tensor.double()).abs().max():.3g} at most"
    return ""


def _models(run: Path, reference: Path) -> str:
    found, expected = (torch.load(folder / "model.pt", weights_only=True) for folder in (run, reference))
    unequal = first_unequal(found, expected)
    return f"model.pt: {unequal}" if unequal else ""


def _checkpoints(run: Path, reference: Path) -> str:
    found, expected = newest_checkpoint(run), newest_checkpoint(reference)
    assert expected is not None, f"{reference} holds no checkpoint"
    if found is None or found.name != expected.name:
        return f"the last checkpoint is {found.name if found else None}; expected {expected.name}"
    unequal = first_unequal(tensors_of(found), tensors_of(expected))
    return f"{found.name}: {unequal}" if unequal else ""


def _curves(run: Path, reference: Path) -> str:
    """A step taken twice may stand twice, if both say the same; none may be missing."""
    expected = {(step, kind): value for step, kind, value in curve(reference)}
    found = curve(run)
    for step, kind, value in found:
        if expected.get((step, kind), "no such line") != value:
            return f"metrics.jsonl: step {step} {kind}: {value}; expected {expected.get((step, kind))}"
    missing = expected.keys() - {(step, kind) for step, kind, _ in found}
    return f"metrics.jsonl: no line for {sorted(missing)}" if missing else ""
