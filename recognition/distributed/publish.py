"""How a checkpoint is published: written aside, synced, renamed; then the pointers, and old ones are removed."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from recognition.distributed.checkpoint import Snapshot, folder_name, list_checkpoints
from recognition.distributed.manifest import (
    NAME,
    REPLICATED,
    Manifest,
    local_file,
    read_manifest,
    render_manifest,
    rows_file,
)
from recognition.distributed.tensor_file import FileFacts, write_tensor_file
from recognition.errors import CheckpointError
from recognition.work.files import write_text, writing

logger = logging.getLogger(__name__)

LATEST, BEST = "latest", "best"


@dataclass(frozen=True)
class Written:
    """What a rank tells of the files it wrote."""

    classes: range
    files: Mapping[str, FileFacts]

    def plain(self) -> list[Any]:
        """Return it as it travels between the ranks."""
        files = {name: [facts.num_bytes, facts.crc32] for name, facts in self.files.items()}
        return [self.classes.start, self.classes.stop, files]

    @classmethod
    def of(cls, plain: Sequence[Any]) -> Written:
        """Return what `plain` gave."""
        start, stop, files = plain
        return cls(range(start, stop), {name: FileFacts(*facts) for name, facts in files.items()})


def part_folder(folder: Path, step: int) -> Path:
    """Return where the checkpoint of `step` is put together."""
    return folder / f".{folder_name(step)}.part"


def files_of(snapshot: Snapshot, rank: int) -> dict[str, Mapping[str, Tensor]]:
    """Return the tensors of each file that `rank` writes."""
    files = {rows_file(rank): snapshot.rows, local_file(rank): snapshot.local}
    return files | ({REPLICATED: snapshot.replicated} if rank == 0 else {})


def write_files(
    part: Path, files: Mapping[str, Mapping[str, Tensor]], *, is_canceled: Callable[[], bool] = lambda: False
) -> dict[str, FileFacts]:
    """Write one rank's files into `part` and return their facts. Raises OSError, Canceled."""
    part.mkdir(parents=True, exist_ok=True)  # every rank, whichever comes first
    return {name: write_tensor_file(part / name, tensors, is_canceled=is_canceled) for name, tensors in files.items()}


def make_manifest(snapshot: Snapshot, ranks: Sequence[Written]) -> Manifest:
    """Return the manifest of a checkpoint whose ranks wrote `ranks`."""
    return Manifest(
        step=snapshot.step,
        num_classes=snapshot.num_classes,
        shards=tuple(rank.classes for rank in ranks),
        files={name: facts for rank in ranks for name, facts in rank.files.items()},
        meta=snapshot.meta,
        score=snapshot.score,
    )


def publish_checkpoint(folder: Path, manifest: Manifest) -> Path:
    """Write the manifest beside the files, sync, and give the folder its name; return it. Raises OSError."""
    part, target = part_folder(folder, manifest.step), folder / folder_name(manifest.step)
    for stray in part.iterdir():
        if stray.name not in manifest.files:
            stray.unlink()  # of a save of more ranks that was killed
    write_text(part / NAME, render_manifest(manifest))
    sync_folder(part)
    if target.exists():
        _discard(target)
    rename_folder(part, target)
    return target


def rename_folder(part: Path, target: Path) -> None:
    """Publish: from here on the checkpoint exists."""
    os.rename(part, target)
    sync_folder(target.parent)


def write_pointer(folder: Path, pointer: str, name: str) -> None:
    """Let the file `latest` or `best` name a checkpoint."""
    write_text(folder / pointer, name + "\n")


def point_and_prune(folder: Path, manifest: Manifest, keep: int) -> None:
    """Bring `latest` and `best` up to date and remove all checkpoints but the newest `keep` and the best."""
    name = folder_name(manifest.step)
    write_pointer(folder, LATEST, name)
    best = best_checkpoint(folder)
    if manifest.score is not None and (best is None or manifest.score > _score(best)):
        write_pointer(folder, BEST, name)
        best = folder / name
    for old in list_checkpoints(folder)[keep:]:
        if old != best:
            _discard(old)


def best_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint that the file `best` names, or None when it names none that is here."""
    if not (folder / BEST).is_file():
        return None
    try:
        named = folder / (folder / BEST).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return None
    return named if named in list_checkpoints(folder) else None


def remove_leftovers(folder: Path, *, but: Path | None = None) -> None:
    """Remove what killed saves left."""
    for stale in folder.glob(".step_*"):
        if stale != but:
            shutil.rmtree(stale, ignore_errors=True)
    for pointer in (LATEST, BEST):
        for stale in folder.glob(f".{pointer}.*.part"):
            stale.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_checkpoint(folder: Path, snapshots: Iterable[Snapshot]) -> Path:
    """Write the checkpoint of a run of several ranks from one process: one snapshot a rank, taken one at a time.

    For runs of other programs. Every checkpoint below `folder` stays; CheckpointError when it cannot be written.
    """
    part: Path | None = None
    ranks: list[Written] = []
    try:
        with writing(folder, kind=CheckpointError):
            for rank, snapshot in enumerate(snapshots):
                part = part_folder(folder, snapshot.step)
                if rank == 0:
                    remove_leftovers(folder)
                files = {
                    name: {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
                    for name, tensors in files_of(snapshot, rank).items()
                }
                ranks.append(Written(snapshot.classes, write_files(part, files)))
            assert part is not None, "a checkpoint of no ranks"
            manifest = make_manifest(snapshot, ranks)
            path = publish_checkpoint(folder, manifest)
            point_and_prune(folder, manifest, keep=len(list_checkpoints(folder)))
            return path
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)


def _score(path: Path) -> float:
    try:
        score = read_manifest(path / NAME).score
    except CheckpointError:
        return float("-inf")
    return float("-inf") if score is None else score


def _discard(path: Path) -> None:
    """Remove a checkpoint so that a kill on the way leaves no half of one under its name."""
    doomed = path.with_name(f".{path.name}.old")
    shutil.rmtree(doomed, ignore_errors=True)
    os.rename(path, doomed)
    shutil.rmtree(doomed, ignore_errors=True)
