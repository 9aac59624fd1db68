"""New people for a trained head: the centers of a run, carried over by the names of the people.

A run notes the names of its classes in `classes.names` of its folder, where the set that it reads has names. A run that
starts from it with `head.init: keep` finds each of its own people there by name, whatever class ids the two sets give.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch

from recognition.backbones.run_weights import CHECKPOINTS
from recognition.config.schema import Config
from recognition.console import count
from recognition.distributed.checkpoint import Checkpoint, latest_checkpoint
from recognition.distributed.manifest import NAME
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import CheckpointError, DataError
from recognition.feed.dataset import Dataset
from recognition.formats.class_names import class_of_name, read_class_names, write_class_names
from recognition.heads.saving import StoredCenters
from recognition.training.build import Parts

logger = logging.getLogger(__name__)

NAMES = "classes.names"
_BLOCK = 4096  # classes that are read at once


def note_names(folder: Path, dataset: Dataset, world: World) -> None:
    """Write the names of the classes of a run into its folder, where the set has names. Collective: one gather."""

    def note() -> None:
        names = dataset.class_names() if world.is_main else None
        if names is not None:
            write_class_names(folder / NAMES, dict(enumerate(names)))

    together(note, world)


def keep_centers(parts: Parts, dataset: Dataset, config: Config, world: World) -> np.ndarray:
    """Fill this rank's centers of the people that the run of `init_from` knows, bit for bit; return which those are.

    Returns bool [classes of this rank]; the others are as they were. Raises on all ranks: DataError where names are
    missing, CheckpointError where the run's centers are of another kind. Collective: one gather.
    """
    kept: list[np.ndarray] = []

    def keep() -> int:
        kept.append(_keep(parts, dataset, Path(str(config.init_from))))
        return int(kept[0].sum())

    num_kept = sum(together(keep, world))
    logger.info(
        "head: %s of %s keep their centers, found by name in %s; the others start from the means of their images",
        f"{num_kept:,}",
        count(parts.num_classes, "class"),
        config.init_from,
    )
    return kept[0]


def _keep(parts: Parts, dataset: Dataset, source: Path) -> np.ndarray:
    checkpoint, run = _checkpoint_of(source)
    known = class_of_name(_names_of(run))
    names = dataset.class_names()
    if names is None:
        raise DataError(
            "head.init: keep finds people by their names, and data.rec has none; expected one set with a .names "
            "file, or a folder of identities; pack it anew with pack_rec.py"
        )
    if max(known.values(), default=-1) >= checkpoint.num_classes:
        raise DataError(
            f"{run / NAMES}: names {max(known.values()) + 1:,} classes, and {checkpoint.path} has "
            f"{checkpoint.num_classes:,}; expected the names of that run; restore the file"
        )
    classes, head = parts.head.class_range, parts.head
    old = np.array([known.get(names[label], -1) if names[label] else -1 for label in classes], np.int64)
    if parts.head.world.size == 1 and not (old >= 0).any():
        raise DataError(
            f"{run / NAMES}: none of its {len(known):,} people is among the {len(names):,} of data.rec; expected "
            "people of both; check the names, or set head.init: class_means"
        )
    rows, stored = head.state_rows()["centers"], StoredCenters.of(checkpoint)
    for first in range(0, checkpoint.num_classes, _BLOCK):
        block = range(first, min(first + _BLOCK, checkpoint.num_classes))
        chosen = np.flatnonzero((old >= block.start) & (old < block.stop))
        if len(chosen):
            held = torch.empty((len(block) * head.sub_centers, *rows.shape[1:]), dtype=rows.dtype)
            stored.read_(block, held)
            for label in chosen.tolist():
                at = (int(old[label]) - first) * head.sub_centers
                head.load_rows("centers", classes.start + label, held[at : at + head.sub_centers].to(rows.device))
    return old >= 0


def _checkpoint_of(source: Path) -> tuple[Checkpoint, Path]:
    """Return the newest checkpoint of a run folder, or the one that `source` is, and the run folder."""
    if (source / NAME).is_file():
        return Checkpoint(source), source.parent.parent
    newest = latest_checkpoint(source / CHECKPOINTS) if source.is_dir() else None
    if newest is None:
        raise CheckpointError(
            f"{source}: holds no checkpoint; expected the folder of a run, whose centers head.init: keep takes over; "
            "set init_from to it, or head.init: class_means"
        )
    return Checkpoint(newest), source


def _names_of(run: Path) -> list[str]:
    if not (run / NAMES).is_file():
        raise DataError(
            f"{run / NAMES}: no such file; expected the names of the run's classes, one a line; copy the .names beside "
            "the set that it was trained on there"
        )
    return read_class_names(run / NAMES)
