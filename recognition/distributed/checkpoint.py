"""Checkpoints: row ranges in safetensors files under one JSON manifest, readable by any number of ranks.

    checkpoints/step_00001200/manifest.json            what is where, and everything that is not a tensor
                              replicated.safetensors   what all ranks hold alike: backbone and its optimizer
                              rows_0.safetensors ...   one file a rank: its rows of centers and momentum
                              local_0.safetensors ...  one file a rank: what it alone holds, BatchNorm's statistics
    checkpoints/latest, best                           names of two of the folders, for people and their scripts

Nothing in it needs unpickling. A folder appears under its name only when every file in it is complete and synced, so a
killed save leaves a `.part` folder that the next save removes, and never a torn checkpoint.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recognition.distributed.collectives import gather_values
from recognition.distributed.manifest import NAME, REPLICATED, local_file, read_manifest, render_manifest, rows_file
from recognition.distributed.shards import class_range
from recognition.distributed.tensor_file import check_finite, check_tensor_file, open_tensor_file
from recognition.distributed.together import together
from recognition.distributed.world import World
from recognition.errors import CheckpointError

logger = logging.getLogger(__name__)

_FOLDER = re.compile(r"step_(\d{8,16})")
_PIECE_BYTES = 64 << 20  # read at a time, so that a resume needs no second copy of a rank's rows


@dataclass(frozen=True)
class Snapshot:
    """What one rank hands to a checkpoint.

    `replicated` is equal on all ranks; `rows` holds this rank's rows, grouped by class, of the classes `classes`;
    `local` is this rank's own. `meta` is JSON-ready and equal on all ranks. `score`: the larger, the better.
    """

    step: int
    replicated: Mapping[str, Tensor]
    rows: Mapping[str, Tensor]
    local: Mapping[str, Tensor]
    classes: range
    num_classes: int
    meta: Mapping[str, Any]
    score: float | None = None


def folder_name(step: int) -> str:
    """Return the name of the checkpoint of `step`."""
    return f"step_{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the published checkpoints below `folder`, the newest first; whether they are whole is not looked at."""
    steps = {path: int(match[1]) for path in folder.glob("step_*") if (match := _FOLDER.fullmatch(path.name))}
    return sorted(steps, key=lambda path: steps[path], reverse=True)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest published checkpoint below `folder`, or None when there is none."""
    return next(iter(list_checkpoints(folder)), None)


def choose_checkpoint(folder: Path, world: World) -> Checkpoint | None:
    """Return the newest checkpoint below `folder` that is complete, equal on all ranks; None when there is none.

    A torn or altered one is refused by name in a warning and set aside under another name, and the one before is
    taken. Raises CheckpointError when none is left. Every file is read by one rank at least. Collectives: one gather of
    small objects, and one for every checkpoint looked at.
    """
    names = gather_values([path.name for path in list_checkpoints(folder)] if world.is_main else [], world)[0]
    problem: CheckpointError | None = None
    for name in names:
        try:
            return _open_alike(folder / name, world)
        except CheckpointError as err:
            problem = err
            if world.is_main:
                _set_aside(folder / name, err)
    if problem is not None:
        raise CheckpointError(f"{folder}: none of {len(names)} checkpoints is complete; the last: {problem}")
    return None


def _open_alike(path: Path, world: World) -> Checkpoint:
    def open_whole() -> str:
        checkpoint = Checkpoint(path)
        checkpoint.verify(world)
        return render_manifest(checkpoint.manifest)

    manifests = together(open_whole, world)
    if any(manifest != manifests[0] for manifest in manifests):
        raise CheckpointError(f"{path / NAME}: the ranks see different files; expected one folder that all nodes share")
    return Checkpoint(path)


def _set_aside(path: Path, problem: CheckpointError) -> None:
    """Keep a refused checkpoint for people to look at, where it is never again taken for a good one."""
    logger.warning("checkpoint refused: %s; the one before it is used", problem)
    aside = path.with_name(f"refused_{path.name}")
    try:
        path.rename(aside)
    except OSError as err:
        logger.warning("%s: cannot be renamed to %s (%s); remove it", path, aside.name, err.strerror or err)


class Checkpoint:
    """A published checkpoint, open for reading by any number of ranks; what is wrong with it is a CheckpointError.

    The manifest is checked when it is opened; `verify` checks the files, and must come before they are read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = read_manifest(path / NAME)
        if path.name != folder_name(self.manifest.step):
            raise CheckpointError(f"{path / NAME}: is of step {self.manifest.step}; expected the step of its folder")

    @property
    def step(self) -> int:
        return self.manifest.step

    @property
    def num_classes(self) -> int:
        return self.manifest.num_classes

    @property
    def world_size(self) -> int:
        return self.manifest.world_size

    @property
    def meta(self) -> Mapping[str, Any]:
        return self.manifest.meta

    def verify(self, world: World) -> None:
        """Check length and checksum of the files that this rank reads, and on rank 0 those that nobody reads."""
        own = self._files_of(world.rank, world.size)
        if world.is_main:
            read = set().union(*(self._files_of(rank, world.size) for rank in range(world.size)))
            own |= self.manifest.files.keys() - read
        for name in sorted(own):
            check_tensor_file(self.path / name, self.manifest.files[name])

    def verify_without_rows(self) -> None:
        """Check length and checksum of the files that hold the backbone, by whichever ranks they were written."""
        for name in [REPLICATED, *map(local_file, range(self.world_size))]:
            check_tensor_file(self.path / name, self.manifest.files[name])

    def _files_of(self, rank: int, size: int) -> set[str]:
        classes = class_range(self.num_classes, rank, size)
        rows = {rows_file(number) for number, shard in enumerate(self.manifest.shards) if _overlap(shard, classes)}
        local = {local_file(number) for number in range(self.world_size) if size != self.world_size or number == rank}
        return {REPLICATED} | rows | local

    def replicated(self) -> dict[str, Tensor]:
        """Return the tensors that all ranks hold alike, on the CPU."""
        return self._read(REPLICATED)

    def local(self, world: World) -> dict[str, Tensor]:
        """Return what this rank alone held, or on another number of ranks the mean over those that wrote it."""
        if world.size == self.world_size:
            return self._read(local_file(world.rank))
        sums: dict[str, Tensor] = {}
        dtypes: dict[str, torch.dtype] = {}
        for rank in range(self.world_size):
            for name, tensor in self._read(local_file(rank)).items():
                dtypes[name] = tensor.dtype
                known = sums.setdefault(name, torch.zeros_like(tensor, dtype=torch.float64))
                if known.shape != tensor.shape:
                    raise CheckpointError(f"{self.path / local_file(rank)}: {name!r} is {list(tensor.shape)}")
                known += tensor
        # float64: the sum of equal float32 values is exact, so its mean is the value itself.
        return {name: (total / self.world_size).to(dtypes[name]) for name, total in sums.items()}

    def row_names(self) -> set[str]:
        """Return the names of the tensors that have a row for each class."""
        with open_tensor_file(self.path / rows_file(0)) as handle:
            return set(handle.keys())

    def rows(self, name: str, classes: range) -> Tensor:
        """Return the rows of tensor `name` that belong to `classes`, whichever ranks wrote them."""
        return torch.cat([piece for _, piece in self._pieces(name, classes)])

    def read_rows_(self, name: str, classes: range, out: Tensor) -> None:
        """Fill `out` with the rows of `classes`, a piece at a time; dtype and shape must be its own."""
        filled = 0
        for place, piece in self._pieces(name, classes):
            if piece.dtype != out.dtype or piece.shape[1:] != out.shape[1:] or filled + len(piece) > len(out):
                raise CheckpointError(
                    f"{place}: {name!r} is {piece.dtype} {[filled + len(piece), *piece.shape[1:]]}; expected "
                    f"{out.dtype} {list(out.shape)}; resume with the run's own config.yaml"
                )
            out[filled : filled + len(piece)].copy_(piece)
            filled += len(piece)
        if filled != len(out):
            raise CheckpointError(
                f"{self.path}: {name!r} has {filled} rows for {len(classes)} classes; expected {len(out)}"
            )

    def _pieces(self, name: str, classes: range) -> Iterator[tuple[Path, Tensor]]:
        for rank, shard in enumerate(self.manifest.shards):
            both = _overlap(shard, classes)
            if both or (not classes and rank == 0):
                yield from self._pieces_of(self.path / rows_file(rank), name, shard, both)

    def _pieces_of(self, path: Path, name: str, shard: range, wanted: range) -> Iterator[tuple[Path, Tensor]]:
        with open_tensor_file(path) as handle:
            if name not in handle.keys():  # noqa: SIM118  (not a dict)
                raise CheckpointError(
                    f"{path}: holds no rows named {name!r}; the head's state format differs; resume with the run's own "
                    "config.yaml"
                )
            rows = handle.get_slice(name)
            shape = rows.get_shape()
            if not shape or shape[0] % max(1, len(shard)) or (not len(shard) and shape[0]):
                raise CheckpointError(f"{path}: {name!r} is {shape}; expected rows for {len(shard)} classes")
            per_class = shape[0] // max(1, len(shard))
            low, high = ((end - shard.start) * per_class if wanted else 0 for end in (wanted.start, wanted.stop))
            step = max(1, _PIECE_BYTES // max(1, 8 * _product(shape[1:])))
            for start in range(low, max(high, low + 1), step):
                yield path, check_finite(path, name, rows[start : min(start + step, high)])

    def _read(self, name: str) -> dict[str, Tensor]:
        with open_tensor_file(self.path / name) as handle:
            keys = handle.keys()
            return {key: check_finite(self.path / name, key, handle.get_tensor(key)) for key in keys}


def _overlap(a: range, b: range) -> range:
    start = max(a.start, b.start)
    return range(start, max(start, min(a.stop, b.stop)))


def _product(shape: list[int]) -> int:
    result = 1
    for length in shape:
        result *= length
    return result
