"""Checkpoints: row ranges in safetensors files under one JSON manifest, readable by any number of ranks.

    checkpoints/step_00001200/manifest.json            what is where, and everything that is not a tensor
                              replicated.safetensors   what all ranks hold alike: backbone and its optimizer
                              rows_0.safetensors ...   one file a rank: its rows of centres and momentum
    checkpoints/latest                                 name of the newest complete folder

Nothing in it needs unpickling. A folder appears under its name only when every file in it is complete and synced, so a
killed save leaves a `.part` folder that the next save removes, and never a torn checkpoint.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recognition.distributed.collectives import gather_objects
from recognition.distributed.world import World
from recognition.errors import CheckpointError
from recognition.files import share_file, sync_file, write_text

logger = logging.getLogger(__name__)

FORMAT = 1
_REPLICATED = "replicated.safetensors"
_CHUNK = 1 << 22


@dataclass(frozen=True)
class Snapshot:
    """What one rank hands to a checkpoint.

    `replicated` is equal on all ranks; `rows` holds this rank's rows, grouped by class, of the classes `classes`.
    `meta` is JSON-ready and equal on all ranks.
    """

    step: int
    replicated: Mapping[str, torch.Tensor]
    rows: Mapping[str, torch.Tensor]
    classes: range
    num_classes: int
    meta: Mapping[str, object]


def save_checkpoint(folder: Path, snapshot: Snapshot, *, world: World, keep: int) -> Path:
    """Write a checkpoint below `folder` and return its path; all ranks call it and all of them wait.

    The newest `keep` checkpoints stay. Raises CheckpointError on every rank alike when one of them cannot write; the
    checkpoints before it are untouched. Collectives: two gathers of small objects.
    """
    name = f"step_{snapshot.step:08d}"
    part = folder / f".{name}.part"
    error = _attempt(lambda: _clean(folder, part)) if world.is_main else None
    _raise_alike([error], world)
    try:
        written = _write_rank_files(part, snapshot, world)
        outcome: dict | str = written
    except (OSError, SafetensorError) as err:
        outcome = f"{part}: rank {world.rank} cannot write ({err}); check space and permissions"
    outcomes = gather_objects(outcome, world)
    _raise_failures(outcomes)
    error = _attempt(lambda: _publish(folder, name, part, snapshot, outcomes, keep)) if world.is_main else None
    _raise_alike([error], world)
    return folder / name


def write_checkpoint(folder: Path, snapshots: Iterable[Snapshot]) -> Path:
    """Write the checkpoint of a run of several ranks from one process: one snapshot a rank, taken one at a time.

    For runs of other programs. Every checkpoint below `folder` stays; CheckpointError when it cannot be written.
    """
    part: Path | None = None
    outcomes: list[dict] = []
    try:
        for rank, snapshot in enumerate(snapshots):
            name = f"step_{snapshot.step:08d}"
            part = folder / f".{name}.part"
            if rank == 0:
                _clean(folder, part)
            outcomes.append(_write_rank_files(part, snapshot, World(rank, rank + 1, 0, torch.device("cpu"))))
        assert part is not None, "a checkpoint of no ranks"
        _publish(folder, name, part, snapshot, outcomes, 1 + sum(1 for _ in folder.glob("step_*")))
    except (OSError, SafetensorError) as err:
        raise CheckpointError(f"{folder}: cannot be written ({err}); check space and permissions") from err
    finally:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
    return folder / name


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete checkpoint below `folder`, or None when there is none."""
    try:
        named = folder / (folder / "latest").read_text(encoding="utf-8").strip()
    except OSError:
        named = None
    if named is not None and named.parent == folder and (named / "manifest.json").is_file():
        return named
    complete = sorted(path.parent for path in folder.glob("step_*/manifest.json"))
    return complete[-1] if complete else None


class Checkpoint:
    """A complete checkpoint, open for reading by any number of ranks.

    Raises CheckpointError when a file is missing, torn, altered or of another format.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        manifest = _read_manifest(path / "manifest.json")
        self.step: int = manifest["step"]
        self.num_classes: int = manifest["num_classes"]
        self.meta: dict = manifest["meta"]
        self.world_size: int = manifest["world_size"]
        self._shards: list[dict] = manifest["shards"]
        for name, facts in manifest["files"].items():
            _check_file(path / name, facts)
        for shard in self._shards:
            if shard["file"] not in manifest["files"]:
                raise CheckpointError(f"{path}: {shard['file']!r} is not one of its files; choose an older checkpoint")

    def replicated(self) -> dict[str, torch.Tensor]:
        """Return the tensors that all ranks hold alike, on the CPU."""
        with safe_open(self.path / _REPLICATED, framework="pt") as handle:
            return {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118  (not a dict)

    def rows(self, name: str, classes: range) -> torch.Tensor:
        """Return the rows of tensor `name` that belong to `classes`, whichever ranks wrote them."""
        parts: list[torch.Tensor] = []
        for shard in self._shards:
            start, stop = max(classes.start, shard["start"]), min(classes.stop, shard["stop"])
            if start >= stop and not (len(classes) == 0 and not parts):
                continue
            with safe_open(self.path / shard["file"], framework="pt") as handle:
                if name not in handle.keys():  # noqa: SIM118
                    raise CheckpointError(
                        f"{self.path / shard['file']}: holds no rows named {name!r}; the head's state format differs; "
                        "resume with the run's own config.yaml"
                    )
                rows = handle.get_slice(name)
                per_class = rows.get_shape()[0] // max(1, shard["stop"] - shard["start"])
                low = (start - shard["start"]) * per_class
                parts.append(rows[low : low + max(0, stop - start) * per_class])
        return torch.cat(parts)


def _attempt(action) -> str | None:
    try:
        action()
    except OSError as err:
        return f"{err.filename or 'checkpoint'}: cannot be written ({err.strerror or err}); check space and permissions"
    return None


def _raise_alike(own: list[str | None], world: World) -> None:
    _raise_failures(gather_objects(own[0], world))


def _raise_failures(outcomes: list) -> None:
    for outcome in outcomes:
        if isinstance(outcome, str):
            raise CheckpointError(outcome)


def _clean(folder: Path, part: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.glob(".step_*.part"):
        shutil.rmtree(stale)
    part.mkdir()


def _write_rank_files(part: Path, snapshot: Snapshot, world: World) -> dict:
    """Write this rank's files and return their facts for the manifest."""
    part.mkdir(exist_ok=True)  # on another node with its own view of a shared folder
    rows_name = f"rows_{world.rank}.safetensors"
    files = {rows_name: _save(part / rows_name, snapshot.rows)}
    if world.is_main:
        files[_REPLICATED] = _save(part / _REPLICATED, snapshot.replicated)
    shard = {"file": rows_name, "start": snapshot.classes.start, "stop": snapshot.classes.stop}
    return {"files": files, "shard": shard}


def _save(path: Path, tensors: Mapping[str, torch.Tensor]) -> dict:
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    share_file(path)  # safetensors makes it 0600, and a run folder is often shared
    sync_file(path)
    return {"bytes": path.stat().st_size, "crc32": _crc32(path)}


def _publish(folder: Path, name: str, part: Path, snapshot: Snapshot, outcomes: list[dict], keep: int) -> None:
    manifest = {
        "format": FORMAT,
        "step": snapshot.step,
        "num_classes": snapshot.num_classes,
        "world_size": len(outcomes),
        "shards": [outcome["shard"] for outcome in outcomes],
        "files": {file: facts for outcome in outcomes for file, facts in outcome["files"].items()},
        "meta": dict(snapshot.meta),
    }
    write_text(part / "manifest.json", json.dumps(manifest, indent=1))
    _sync_folder(part)
    target = folder / name
    if target.exists():
        shutil.rmtree(target)  # a resumed run reached the same step again
    os.rename(part, target)
    _sync_folder(folder)
    write_text(folder / "latest", name + "\n")
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _crc32(path: Path) -> int:
    value = 0
    with open(path, "rb") as handle:
        while chunk := handle.read(_CHUNK):
            value = zlib.crc32(chunk, value)
    return value


def _read_manifest(path: Path) -> dict:
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise CheckpointError(f"{path}: cannot be read ({err}); choose another checkpoint") from err
    expected = {
        "format": int,
        "step": int,
        "num_classes": int,
        "world_size": int,
        "shards": list,
        "files": dict,
        "meta": dict,
    }
    for key, kind in expected.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(key), kind):
            raise CheckpointError(f"{path}: {key!r} is missing or not {kind.__name__}; choose another checkpoint")
    if manifest["format"] != FORMAT:
        raise CheckpointError(f"{path}: format {manifest['format']}; expected {FORMAT}; use the version that wrote it")
    for name in manifest["files"]:
        if Path(name).name != name:
            raise CheckpointError(f"{path}: names {name!r}, a file outside its folder; choose another checkpoint")
    return manifest


def _check_file(path: Path, facts: Mapping[str, int]) -> None:
    try:
        found = path.stat().st_size
        if found != facts["bytes"]:
            raise CheckpointError(f"{path}: {found} bytes; expected {facts['bytes']}; choose an older checkpoint")
        if _crc32(path) != facts["crc32"]:
            raise CheckpointError(f"{path}: its checksum differs from the manifest's; choose an older checkpoint")
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror}); choose an older checkpoint") from err
