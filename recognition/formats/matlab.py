"""Read MATLAB files of version 5 through SciPy, after a look at what they would unfold into. Torch-free.

A file of a megabyte can hold gigabytes of zeros, and SciPy allocates what the dimensions of a cell array claim. So each
element is walked first: it is unpacked under a limit, and no array may have more entries than it has bytes.
"""

from __future__ import annotations

import importlib
import io
import math
import struct
import zlib
from pathlib import Path
from typing import Any

from recognition.errors import ConfigError, DataError
from recognition.work.inputs import require_plain

MAX_FILE_BYTES = 1 << 26
MAX_UNPACKED_BYTES = 1 << 28
_HEADER_BYTES = 128
_COMPRESSED, _MATRIX = 15, 14
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMBERS = range(6, 16)
_DATA = frozenset({1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 16, 17, 18})
"""Types of the data of an array. SciPy looks any other up in a table that lacks it, and crashes."""
_IS_COMPLEX = 8
_MAX_DEPTH = 12
_HDF5 = b"\x89HDF\r\n\x1a\n"


def read_matlab(path: Path) -> dict[str, Any]:
    """Return the variables of a MATLAB file; cells and structs are arrays of objects.

    Raises ConfigError without SciPy, and DataError for a file that cannot be read, is of version 7.3 (HDF5), or claims
    more than it holds.
    """
    content = _read(path)
    loadmat = _scipy_reader()
    unpacked = _unpacked(content, path)
    at = _HEADER_BYTES
    while at + 8 <= len(unpacked):
        at = _check_element(unpacked, at, len(unpacked), path, depth=0)
    try:
        found: dict[str, Any] = loadmat(io.BytesIO(unpacked))
    except Exception as err:  # SciPy raises whatever its parts raise on damaged bytes
        raise _damaged(path, f"{type(err).__name__} while it is read") from err
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _scipy_reader() -> Any:
    try:
        return importlib.import_module("scipy.io").loadmat
    except ImportError as err:
        raise ConfigError(f"scipy: cannot be imported ({err}); run: pip install 'arcshard[eval]'") from err


def _read(path: Path) -> bytes:
    require_plain(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: over {MAX_FILE_BYTES >> 20} MiB; expected a list of pairs; take the list alone")
        content = path.read_bytes()
    except OSError as err:
        raise DataError(
            f"{path}: cannot be read ({err.strerror or err}); expected a .mat file; check the path"
        ) from err
    if content.startswith((_HDF5, b"MATLAB 7.3")):
        raise DataError(
            f"{path}: is a MATLAB file of version 7.3 (HDF5); expected version 5; save it again with `save -v7`"
        )
    if len(content) < _HEADER_BYTES or content[126:128] != b"IM" or content[124:126] != b"\x00\x01":
        raise _damaged(path, "no header of version 5")
    return content


def _unpacked(content: bytes, path: Path) -> bytes:
    """Return the file with its compressed elements unpacked."""
    parts, at, total = [content[:_HEADER_BYTES]], _HEADER_BYTES, 0
    while at + 8 <= len(content):
        kind, num_bytes = struct.unpack_from("<II", content, at)
        if num_bytes > len(content) - at - 8:
            raise _damaged(path, f"an element at byte {at} is cut off")
        part = content[at : at + 8 + num_bytes]
        at += 8 + num_bytes
        if kind == _COMPRESSED:
            try:
                part = zlib.decompressobj().decompress(part[8:], MAX_UNPACKED_BYTES - total + 1)
            except zlib.error as err:
                raise _damaged(path, f"an element at byte {at} does not unpack") from err
        total += len(part)
        if total > MAX_UNPACKED_BYTES:
            raise DataError(f"{path}: unpacks to over {MAX_UNPACKED_BYTES >> 20} MiB; expected a list; do not use it")
        parts.append(part)
    return b"".join(parts)


def _check_element(content: bytes, at: int, stop: int, path: Path, *, depth: int) -> int:
    """Refuse an element that claims more than its bytes, and return where the next one starts."""
    kind, start, num_bytes = _tag(content, at, stop, path)
    end = start + num_bytes
    if kind == _MATRIX and num_bytes:
        if depth > _MAX_DEPTH:
            raise _damaged(path, f"arrays nest over {_MAX_DEPTH} deep")
        _check_matrix(content, start, end, path, depth)
    return end if start == at + 4 else start + -(-num_bytes // 8) * 8


def _check_matrix(content: bytes, at: int, end: int, path: Path, depth: int) -> None:
    _, flags_at, num_flags = _tag(content, at, end, path)
    dims_tag = flags_at + 8
    _, dims_at, dims_bytes = _tag(content, dims_tag, end, path)
    if num_flags != 8 or dims_bytes % 4 or not 0 < dims_bytes <= 32:
        raise _damaged(path, f"no array at byte {at}")
    array_class = content[flags_at]
    dims = struct.unpack_from(f"<{dims_bytes // 4}i", content, dims_at)
    num_fields = 1
    at = dims_at + -(-dims_bytes // 8) * 8 if dims_at != dims_tag + 4 else dims_tag + 8
    at = _check_element(content, at, end, path, depth=depth)  # the name
    if array_class == _STRUCT:
        _, length_at, length_bytes = _tag(content, at, end, path)
        length = struct.unpack_from("<i", content, length_at)[0] if length_bytes == 4 else 0
        at = length_at + 4 if length_at == at + 4 else length_at + 8
        _, _, names_bytes = _tag(content, at, end, path)
        if length <= 0:
            raise _damaged(path, f"no struct at byte {at}")
        num_fields = names_bytes // length
        at = _check_element(content, at, end, path, depth=depth)
    elif array_class not in (_CELL, _CHAR, *_NUMBERS):
        raise _damaged(path, f"an array of class {array_class}, which no list of pairs holds")
    least = 8 if array_class in (_CELL, _STRUCT) else 1
    if min(dims) < 0 or math.prod(dims) * max(num_fields, 1) * least > end - at + 8:
        raise _damaged(path, f"an array of {' x '.join(map(str, dims))} in {end - at:,} bytes")
    if array_class not in (_CELL, _STRUCT):
        for _ in range(2 if content[flags_at + 1] & _IS_COMPLEX else 1):
            kind, _, _ = _tag(content, at, end, path)
            if kind not in _DATA:
                raise _damaged(path, f"data of type {kind} at byte {at}")
            at = _check_element(content, at, end, path, depth=depth)
    while array_class in (_CELL, _STRUCT) and at + 8 <= end:
        at = _check_element(content, at, end, path, depth=depth + 1)


def _tag(content: bytes, at: int, stop: int, path: Path) -> tuple[int, int, int]:
    """Return type, start and length of an element's data; four bytes or less may lie inside the tag."""
    if at + 8 > stop:
        raise _damaged(path, f"an element at byte {at} is cut off")
    kind, num_bytes = struct.unpack_from("<II", content, at)
    if kind >> 16:
        kind, num_bytes, start = kind & 0xFFFF, kind >> 16, at + 4
    else:
        start = at + 8
    if num_bytes > stop - start or (start == at + 4 and num_bytes > 4):
        raise _damaged(path, f"an element at byte {at} is cut off")
    return kind, start, num_bytes


def _damaged(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; expected a MATLAB file of version 5; fetch it again")
