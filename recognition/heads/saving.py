"""A head in a folder: what all ranks hold, in the format of a run's checkpoints, for any number of ranks to read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch

from recognition.distributed.checkpoint import Checkpoint, Snapshot, choose_checkpoint, list_checkpoints
from recognition.distributed.publish import (
    Written,
    files_of,
    make_manifest,
    part_folder,
    point_and_prune,
    publish_checkpoint,
    remove_leftovers,
    write_files,
)
from recognition.distributed.together import together
from recognition.errors import CheckpointError
from recognition.heads.coasting import missed_of, move_
from recognition.heads.guards import check_kind, check_unsampled
from recognition.heads.sharded_softmax import ShardedSoftmax

T = TypeVar("T")

MARGIN = "margin."
"""Before the names of what a margin keeps, among what all ranks hold alike."""
COAST = "coast."
"""Before those of what coasting rows have missed."""


def alike(head: ShardedSoftmax) -> dict[str, torch.Tensor]:
    """Return the live tensors of the head that all ranks hold alike, under their names in a checkpoint."""
    margin = {MARGIN + name: value for name, value in head.margin_state().items()}
    return margin | {COAST + name: value for name, value in head.coast_state().items()}


def save_head(head: ShardedSoftmax, folder: str | Path) -> Path:
    """Write the head's state below `folder`, which all ranks see, and return the checkpoint's own folder.

    It appears whole or not at all, under the number of the steps taken; others there stay. CheckpointError on every
    rank alike when it cannot be written. Collective.
    """
    folder, world = Path(folder), head.world
    snapshot = Snapshot(
        step=head.steps,
        replicated=alike(head),
        rows=head.state_rows(),
        local={},
        classes=head.class_range,
        num_classes=head.num_classes,
        meta={},
    )
    part = part_folder(folder, snapshot.step)

    def write() -> list[Any]:
        files = {
            name: {key: tensor.cpu().contiguous() for key, tensor in tensors.items()}
            for name, tensors in files_of(snapshot, world.rank).items()
        }
        return Written(snapshot.classes, _writing(folder, lambda: write_files(part, files))).plain()

    def publish() -> None:
        if world.is_main:
            manifest = make_manifest(snapshot, ranks)
            path = _writing(folder, lambda: publish_checkpoint(folder, manifest))
            point_and_prune(folder, manifest, keep=len(list_checkpoints(path.parent)))

    together(lambda: remove_leftovers(folder) if world.is_main else None, world)
    ranks = [Written.of(plain) for plain in together(write, world)]
    together(publish, world)
    return folder / part.name.removeprefix(".").removesuffix(".part")


def load_head(head: ShardedSoftmax, folder: str | Path) -> Path:
    """Bring `head` to the newest whole state below `folder`, whatever number of ranks wrote it; return its folder.

    The checkpoints of a training run, RUN/checkpoints, are such a folder as well. CheckpointError on every rank alike
    when there is none, or when it is of another number of classes, embedding size, format, margin, kind of optimizer or
    of unsampled rows. Collective.
    """
    folder = Path(folder)
    checkpoint = choose_checkpoint(folder, head.world)
    if checkpoint is None:
        raise CheckpointError(f"{folder}: holds no checkpoint; expected one that save_head or a training run wrote")
    if checkpoint.num_classes != head.num_classes:
        raise CheckpointError(
            f"{checkpoint.path}: holds {checkpoint.num_classes:,} classes; expected the head's {head.num_classes:,}"
        )

    def load() -> None:
        check_kind("second_moment" in checkpoint.row_names(), head.state.kind, str(checkpoint.path))
        held = checkpoint.replicated()
        check_unsampled(any(name.startswith(COAST) for name in held), head.state.coast is not None, checkpoint.path)
        with torch.no_grad():
            for name, value in alike(head).items():
                if name not in held:
                    found = f"holds no {name.removeprefix(MARGIN)!r} of a margin"
                    raise CheckpointError(f"{checkpoint.path}: {found}; expected the head's own")
                value.copy_(held[name])
            for name, rows in head.state_rows().items():
                checkpoint.read_rows_(name, head.class_range, rows)
        head.steps = checkpoint.step

    together(load, head.world)
    return checkpoint.path


def _writing(folder: Path, work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as err:
        raise CheckpointError(f"{folder}: cannot be written ({err}); check space and permissions") from err


@dataclass(frozen=True)
class StoredCenters:
    """The centers of a checkpoint as they are by its step, though rows that coast are stored as last written."""

    checkpoint: Checkpoint
    products: torch.Tensor | None
    """Those of `Coast`; None where no row coasts."""

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> StoredCenters:
        """Read what all rows share."""
        return cls(checkpoint, checkpoint.replicated().get(f"{COAST}products"))

    def read_(self, classes: range, out: torch.Tensor) -> None:
        """Fill `out` (on the host) with the rows of `classes`, as `Checkpoint.read_rows_` does."""
        self.checkpoint.read_rows_("centers", classes, out)
        if self.products is None:
            return
        names = self.checkpoint.row_names()
        reached = self.checkpoint.rows("reached", classes)
        missed = missed_of(self.products, reached, torch.float32)
        momentum = torch.zeros(1)
        if "momentum" in names:
            momentum = self.checkpoint.rows("momentum", classes).float()
        if "momentum_scale" in names:
            momentum = momentum * self.checkpoint.rows("momentum_scale", classes).unsqueeze(1)
        centers = out.float()
        move_(centers, momentum, missed, centers)
        out.copy_(centers)
