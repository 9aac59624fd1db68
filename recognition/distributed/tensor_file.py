"""Tensors in safetensors' layout, streamed to disk with their checksum, and checked before they are read.

The library's own writer makes one more copy of everything in memory; here the bytes go to the file from where they lie.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recognition.console import size
from recognition.errors import CheckpointError
from recognition.work.inputs import require_plain
from recognition.work.strict_json import parse_json

_CHUNK = 4 << 20
_MAX_HEADER_BYTES = 1 << 26
_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class FileFacts:
    """What a manifest says of a file."""

    num_bytes: int
    crc32: int


class Canceled(Exception):
    """The writer was told to stop: the run is ending with an error."""


def arranged(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names in the order of the file: the widest elements first, so that each tensor begins aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def write_tensor_file(
    path: Path, tensors: Mapping[str, Tensor], *, is_canceled: Callable[[], bool] = lambda: False
) -> FileFacts:
    """Write contiguous CPU tensors to `path`, sync it, and return its facts; the checksum is taken as bytes go by.

    Raises OSError when the file cannot be written, Canceled when `is_canceled` turns true.
    """
    order = arranged(tensors)
    crc, written = 0, 0
    with open(path, "wb", buffering=_CHUNK) as handle:
        for chunk in _chunks(_header(tensors, order), tensors, order):
            if is_canceled():
                raise Canceled
            crc = zlib.crc32(chunk, crc)
            handle.write(chunk)
            written += len(chunk)
        handle.flush()
        os.fsync(handle.fileno())
    return FileFacts(written, crc)


def check_tensor_file(path: Path, facts: FileFacts) -> None:
    """Raise CheckpointError unless `path` is a plain file with the length and the checksum of `facts`."""
    crc = 0
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode):
            raise CheckpointError(f"{path}: is no plain file; expected one of {size(facts.num_bytes)}")
        if status.st_size != facts.num_bytes:
            raise CheckpointError(f"{path}: {status.st_size} bytes; expected {facts.num_bytes}; it is incomplete")
        with open(path, "rb", buffering=0) as handle:
            while chunk := handle.read(_CHUNK):
                crc = zlib.crc32(chunk, crc)
    except OSError as err:
        raise CheckpointError(f"{path}: cannot be read ({err.strerror or err}); expected a complete file") from err
    if crc != facts.crc32:
        raise CheckpointError(f"{path}: its checksum differs from the manifest's; it was changed")


@contextmanager
def open_tensor_file(path: Path) -> Iterator[Any]:
    """Open a file of tensors for reading by slices; whatever is wrong with it is a CheckpointError."""
    require_plain(path, CheckpointError)
    try:
        _check_header(path)
        with safe_open(path, framework="pt") as handle:
            yield handle
    except (OSError, SafetensorError, ValueError, RecursionError) as err:
        raise CheckpointError(f"{path}: cannot be read as tensors ({err}); expected a safetensors file") from err


def check_finite(path: Path, name: str, tensor: Tensor) -> Tensor:
    """Return a tensor that was read from `path`; CheckpointError when it holds NaN or infinite values.

    A run refuses the step that would make them, so no checkpoint of ours has one, and a row of NaN would train on
    unseen. The sum is taken in float64, which float32 values cannot overflow.
    """
    if tensor.is_floating_point() and not tensor.sum(dtype=torch.float64).isfinite():
        raise CheckpointError(
            f"{path}: {name!r} holds values that are no numbers; expected finite ones; take another checkpoint"
        )
    return tensor


def _check_header(path: Path) -> None:
    """Raise ValueError for a header that the library reads, but that no checkpoint has: repeated names, other types."""
    with open(path, "rb", buffering=0) as handle:
        start = handle.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= _MAX_HEADER_BYTES:
            raise ValueError(f"its header claims {length:,} bytes")
        entries = parse_json(handle.read(length))
    if not isinstance(entries, dict):
        raise ValueError("its header is no JSON object")
    for name, entry in entries.items():
        dtype = entry.get("dtype") if isinstance(entry, dict) else None
        if name != "__metadata__" and dtype not in _DTYPES.values():
            raise ValueError(f"{name[:80]!r} is of type {str(dtype)[:20]!r}")


def _header(tensors: Mapping[str, Tensor], order: list[str]) -> bytes:
    entries, end = {}, 0
    for name in order:
        tensor = tensors[name]
        start, end = end, end + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight
    return struct.pack("<Q", len(text)) + text


def _chunks(header: bytes, tensors: Mapping[str, Tensor], order: list[str]) -> Iterator[memoryview]:
    yield memoryview(header)
    for name in order:
        tensor = tensors[name]
        assert tensor.is_contiguous() and tensor.device.type == "cpu", name
        if not tensor.numel():
            continue
        content: memoryview = tensor.reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, len(content), _CHUNK):
            yield content[start : start + _CHUNK]
