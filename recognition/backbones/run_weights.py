"""The weights of a run, before and after its end: which file or checkpoint a path means, and how one is read.

RUN/model.safetensors, model.pt      the newest: of the last validation, epoch end or stop, or of the end
RUN/best.safetensors, best.pt        those of the best mean validation score
RUN/checkpoints/step_<n>             everything of a step; its backbone is the same weights
RUN/checkpoints/latest, best         each the name of such a folder
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import torch
from torch import Tensor

from recognition.backbones.safetensors_file import SUFFIX
from recognition.distributed.checkpoint import Checkpoint, latest_checkpoint
from recognition.distributed.manifest import NAME
from recognition.distributed.publish import BEST, LATEST
from recognition.distributed.world import World
from recognition.errors import CheckpointError

RUN_MODEL = f"model{SUFFIX}"
"""Name of the self-describing weights in a run folder."""
RUN_WEIGHTS = "model.pt"
"""Name of the same weights for insightface's programs."""
MODEL_FILES = (RUN_MODEL, RUN_WEIGHTS)
BEST_FILES = (f"best{SUFFIX}", "best.pt")
RUN_CONFIG = "config.yaml"
CHECKPOINTS = "checkpoints"
BACKBONE = "backbone."
"""What the names of the backbone's tensors begin with in a checkpoint."""

_MAX_POINTER_BYTES = 100


def find_weights(path: Path) -> Path:
    """Return the weight file or the checkpoint's folder that `path` means; CheckpointError when there is none.

    A run folder means its newest weights, or where none are written yet its newest checkpoint.
    """
    if path.name in (LATEST, BEST) and path.is_file():
        return _named_by(path)
    if path.is_dir():
        return _of_folder(path)
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found; expected a run folder, a checkpoint, or a .safetensors, .pt or .pth file; check the "
            "path"
        )
    return path


def read_checkpoint_weights(folder: Path) -> dict[str, Tensor]:
    """Return the backbone of a checkpoint on the CPU: without sync_bn BatchNorm's statistics are the ranks' mean.

    The files that hold the centers are not read. Raises CheckpointError for a checkpoint that is torn or altered.
    """
    checkpoint = Checkpoint(folder)
    alone = World(0, 1, 0, torch.device("cpu"))
    checkpoint.verify_without_rows()
    tensors = {**checkpoint.replicated(), **checkpoint.local(alone)}
    state = {name.removeprefix(BACKBONE): tensor for name, tensor in tensors.items() if name.startswith(BACKBONE)}
    if not state:
        raise CheckpointError(f"{folder}: holds no backbone; expected the checkpoint of a run; take another")
    return state


def run_folder_of(weights: Path) -> Path | None:
    """Return the run folder that what `find_weights` gave belongs to by its name; None for a file of any other name."""
    if weights.is_dir():
        return weights.parent.parent
    return weights.parent if weights.name in (*MODEL_FILES, *BEST_FILES) else None


def _of_folder(path: Path) -> Path:
    if (path / NAME).is_file():
        return path
    for name in MODEL_FILES:
        if (path / name).is_file():
            return path / name
    for folder in (path / CHECKPOINTS, path):
        newest = latest_checkpoint(folder)
        if newest is not None:
            return newest
    raise CheckpointError(
        f"{path}: holds no {RUN_WEIGHTS} and no {RUN_MODEL}; expected a run folder, a checkpoint or a weight file; a "
        "run writes them when it validates, at the end of an epoch and when it ends"
    )


def _named_by(pointer: Path) -> Path:
    """Return the checkpoint that a file `latest` or `best` names."""
    name = ""
    with contextlib.suppress(OSError, UnicodeDecodeError), open(pointer, "rb") as handle:
        name = handle.read(_MAX_POINTER_BYTES).decode("utf-8").strip()
    target = pointer.parent / name
    if not name or Path(name).name != name or not (target / NAME).is_file():
        raise CheckpointError(
            f"{pointer}: names {name!r}, which is no checkpoint here; expected one; name a checkpoint's folder"
        )
    return target
