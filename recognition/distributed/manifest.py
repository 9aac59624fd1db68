"""The manifest of a checkpoint: what is where, who holds which classes, and everything that is not a tensor.

A manifest from a disk is hostile until it is parsed: every number has bounds, every name is one this program gives, and
its own checksum stands in its first line.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recognition.distributed.tensor_file import FileFacts
from recognition.errors import CheckpointError
from recognition.work.strict_json import parse_json

FORMAT = 2
NAME = "manifest.json"
REPLICATED = "replicated.safetensors"
_MAX_BYTES = 1 << 26
_MAX_RANKS = 1 << 16
_FIRST_LINE = re.compile(r'\{"sha256": "([0-9a-f]{64})",\n')
_LARGEST = {"step": 1 << 53, "num_classes": 1 << 40, "crc32": (1 << 32) - 1, "bytes": 1 << 60}


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint says of itself."""

    step: int
    num_classes: int
    shards: tuple[range, ...]
    """The classes of each rank; together they are range(num_classes)."""
    files: Mapping[str, FileFacts]
    meta: Mapping[str, Any]
    """JSON-ready; the training's own."""
    score: float | None = None
    """By which the best checkpoint is kept: the larger, the better."""

    @property
    def world_size(self) -> int:
        """Return the number of ranks that wrote it."""
        return len(self.shards)


def rows_file(rank: int) -> str:
    """Return the name of the file with a rank's rows."""
    return f"rows_{rank}.safetensors"


def local_file(rank: int) -> str:
    """Return the name of the file with what a rank alone holds."""
    return f"local_{rank}.safetensors"


def file_names(world_size: int) -> set[str]:
    """Return the names of all files beside the manifest."""
    return {REPLICATED} | {name(rank) for rank in range(world_size) for name in (rows_file, local_file)}


def render_manifest(manifest: Manifest) -> str:
    """Return the manifest as text: JSON, whose first line is the checksum of all that follows it."""
    body = {
        "format": FORMAT,
        "step": manifest.step,
        "num_classes": manifest.num_classes,
        "shards": [[shard.start, shard.stop] for shard in manifest.shards],
        "files": {
            name: {"bytes": facts.num_bytes, "crc32": facts.crc32} for name, facts in sorted(manifest.files.items())
        },
        "score": manifest.score,
        "meta": manifest.meta,
    }
    rest = json.dumps(body, indent=1, allow_nan=False).removeprefix("{\n") + "\n"
    return f'{{"sha256": "{_digest(rest)}",\n{rest}'


def read_manifest(path: Path) -> Manifest:
    """Parse the manifest at `path`; CheckpointError when it is missing, altered, of another format or contradictory."""
    text = _read_text(path)
    first = _FIRST_LINE.match(text)
    if first is None and '"format": 1,' in text[:40]:
        raise CheckpointError(f"{path}: format 1; expected {FORMAT}; use the version that wrote it")
    if first is None or first[1] != _digest(text[first.end() :]):
        raise CheckpointError(f"{path}: its checksum differs from its content; it was changed")
    try:
        values = parse_json(text)
    except (ValueError, RecursionError) as err:
        raise CheckpointError(f"{path}: cannot be read ({err}); expected JSON") from err
    return _parse(path, values)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _read_text(path: Path) -> str:
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_BYTES:
            raise CheckpointError(f"{path}: is no plain file of at most {_MAX_BYTES >> 20} MiB")
        return path.read_bytes().decode("utf-8")
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err}); expected a manifest") from err
    except UnicodeDecodeError as err:
        raise CheckpointError(f"{path}: its checksum differs from its content; it was changed") from err


def _parse(path: Path, values: Any) -> Manifest:
    def demand(holds: bool, problem: str) -> None:
        if not holds:
            raise CheckpointError(f"{path}: {problem}")

    if values.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: format {values.get('format')!r}; expected {FORMAT}; use the version that wrote it"
        )
    for key, kind in {"shards": list, "files": dict, "meta": dict}.items():
        demand(isinstance(values.get(key), kind), f"{key!r} is missing or not a {kind.__name__}")
    for key in ("step", "num_classes"):
        demand(_is_count(values.get(key), key), f"{key!r} is missing or not a whole number of at least 0")
    score = values.get("score")
    demand(score is None or type(score) in (int, float), "'score' is not a number")
    shards = _parse_shards(path, values["shards"], values["num_classes"])
    names = file_names(len(shards))
    for name in values["files"]:
        demand(name in names, f"names {name!r}, which is no file of a checkpoint of {len(shards)} ranks")
    for name in names:
        facts = values["files"].get(name)
        demand(isinstance(facts, dict), f"{name!r} is not one of its files")
        for key in ("bytes", "crc32"):
            demand(_is_count(facts.get(key), key), f"{name!r}: {key!r} is missing or out of range")
    files = {name: FileFacts(facts["bytes"], facts["crc32"]) for name, facts in values["files"].items()}
    return Manifest(values["step"], values["num_classes"], shards, files, values["meta"], score)


def _parse_shards(path: Path, found: Sequence[Any], num_classes: int) -> tuple[range, ...]:
    if not 1 <= len(found) <= _MAX_RANKS:
        raise CheckpointError(f"{path}: {len(found)} shards; expected 1 to {_MAX_RANKS}")
    shards, start = [], 0
    for shard in found:
        is_range = isinstance(shard, list) and len(shard) == 2 and all(_is_count(end, "num_classes") for end in shard)
        if not is_range or shard[0] != start or shard[1] < start:
            raise CheckpointError(f"{path}: shard {shard!r:.60} does not begin at class {start}, where it should")
        shards.append(range(shard[0], shard[1]))
        start = shard[1]
    if start != num_classes:
        raise CheckpointError(f"{path}: its shards end at class {start}; expected {num_classes}")
    return tuple(shards)


def _is_count(value: Any, key: str) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST[key]
