"""What a file of torch.save may ask for, checked before torch reads it.

torch.load with weights_only runs no foreign code, but it allocates what it is told to: a pickle may call constructors
of tensors and storages with any size, and an archive may hold compressed entries. So the pickle runs here first, with
stand-ins that do nothing, and every storage it names must be there byte for byte.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar, TypeGuard

import torch
from torch import Tensor

from recognition.errors import CheckpointError
from recognition.work.inputs import require_plain

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of the format before torch 1.6
_ARCHIVE = b"PK\x03\x04"
"""How an archive begins, by which torch tells the formats apart: zipfile itself also takes what only ends as one."""
_MAX_ENTRIES = 100_000
_STORAGE_BYTES = {
    "DoubleStorage": 8,
    "FloatStorage": 4,
    "HalfStorage": 2,
    "BFloat16Storage": 2,
    "LongStorage": 8,
    "IntStorage": 4,
    "ShortStorage": 2,
    "CharStorage": 1,
    "ByteStorage": 1,
    "BoolStorage": 1,
    "UntypedStorage": 1,
}
_UNUSED_OPCODES = frozenset(
    {
        pickle.ADDITEMS,
        pickle.EMPTY_SET,
        pickle.FROZENSET,
        pickle.INST,
        pickle.OBJ,
        pickle.NEWOBJ,
        pickle.NEWOBJ_EX,
        pickle.EXT1,
        pickle.EXT2,
        pickle.EXT4,
        pickle.NEXT_BUFFER,
        pickle.READONLY_BUFFER,
        pickle.BYTEARRAY8,
        pickle.PERSID,
        pickle.DUP,
    }
)
_CALLED = frozenset(
    {
        "collections.OrderedDict",
        "collections.Counter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
        "torch.Size",
        "torch.device",
    }
)


class RefusedFileError(Exception):
    """The file asks for something that no file of weights needs."""


def check_torch_file(path: Path) -> None:
    """Raise RefusedFileError unless `path` holds plain tensors and containers, each storage as long as it claims.

    Raises OSError when it cannot be read.
    """
    require_plain(path, CheckpointError)
    with open(path, "rb") as handle:
        is_archive = handle.read(len(_ARCHIVE)) == _ARCHIVE
    if is_archive:
        _check_archive(path)
    else:
        _check_old_format(path)


def is_plain(value: Any) -> TypeGuard[Tensor]:
    """Whether `value` is a dense real tensor whose elements lie in memory once: no view that repeats a few of them."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.device.type != "cpu":
        return False
    if value.is_quantized or value.is_complex():
        return False
    return value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _check_archive(path: Path) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename: entry for entry in archive.infolist()}
            _check_entries(list(entries.values()), path.stat().st_size)
            for name in entries:
                folder, slash, base = name.rpartition("/")
                if base == "data.pkl":
                    sizes = {key: entry.file_size for key, entry in entries.items()}
                    _run(archive.open(name), _EntryStorages(sizes, f"{folder}{slash}data/"))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as err:
        raise RefusedFileError(f"it is not a complete archive: {err}") from err


def _check_entries(entries: list[zipfile.ZipInfo], num_bytes: int) -> None:
    for entry in entries:
        if entry.compress_type != zipfile.ZIP_STORED:
            raise RefusedFileError(f"its entry {entry.filename[:80]!r} is compressed")
    claimed = sum(entry.file_size for entry in entries)
    if claimed > num_bytes or len(entries) > _MAX_ENTRIES:
        raise RefusedFileError(f"its {len(entries):,} entries claim {claimed:,} bytes of a file of {num_bytes:,}")


def _check_old_format(path: Path) -> None:
    """Five pickles (magic number, version, byte sizes, content, names of storages), then the storages' bytes."""
    num_bytes = path.stat().st_size
    with open(path, "rb") as handle:
        whole = _Bounded(handle, num_bytes)
        if _run(whole, _no_storage) != _MAGIC:
            raise RefusedFileError("it is no torch file")
        for _ in range(2):
            _run(whole, _no_storage)
        _run(whole, _TotalStorages(num_bytes))
        _run(whole, _no_storage)


class _Bounded:
    """A file that is read no further than it goes: Python's own makes room for what a pickle claims before it reads."""

    def __init__(self, handle: IO[bytes], num_bytes: int) -> None:
        self.readline = handle.readline
        self._handle, self._num_bytes = handle, num_bytes

    def read(self, length: int = -1) -> bytes:
        """Return the next bytes, as a file does."""
        if length > self._num_bytes - self._handle.tell():
            raise RefusedFileError("it is cut off inside a pickle")
        return self._handle.read(length)


def _run(handle: IO[bytes] | _Bounded, check_storage: Callable[[str, int], None]) -> Any:
    try:
        return _DryRun(handle, check_storage).load()
    except RefusedFileError:
        raise
    except Exception as err:  # a hostile pickle can end in almost any exception
        raise RefusedFileError("it is no torch file") from err


class _EntryStorages:
    """Holds each storage to the size of its entry."""

    def __init__(self, sizes: Mapping[str, int], prefix: str) -> None:
        self._sizes, self._prefix = sizes, prefix

    def __call__(self, key: str, num_bytes: int) -> None:
        held = self._sizes.get(f"{self._prefix}{key}")
        if held != num_bytes:
            found = "is missing" if held is None else f"has {held:,} bytes"
            raise RefusedFileError(f"its storage {key[:40]!r} {found}, its pickle claims {num_bytes:,}")


class _TotalStorages:
    """Holds the sum of all storages to the size of the file."""

    def __init__(self, num_bytes: int) -> None:
        self._num_bytes = num_bytes
        self._claimed: dict[str, int] = {}

    def __call__(self, key: str, num_bytes: int) -> None:
        self._claimed[key] = max(num_bytes, self._claimed.get(key, 0))
        if self._claimed[key] > self._num_bytes or sum(self._claimed.values()) > self._num_bytes:
            raise RefusedFileError(f"its pickle claims more storage than the file's {self._num_bytes:,} bytes")


def _no_storage(key: str, num_bytes: int) -> None:
    raise RefusedFileError("its head names a storage")


class _Inert(dict[Any, Any]):
    """What every allowed call returns: takes entries, attributes and state, and keeps none of them but entries."""

    def __setstate__(self, state: object) -> None:
        pass


class _Storage:
    """A type of storage, which a pickle may name but not call."""

    def __init__(self, element_bytes: int) -> None:
        self.element_bytes = element_bytes


def _called(*args: object) -> _Inert:
    for arg in args:
        is_flat = isinstance(arg, tuple) and all(isinstance(item, int) for item in arg)
        if not (is_flat or arg is None or isinstance(arg, (str, int, float, _Inert)) or type(arg) is dict):
            raise RefusedFileError(f"its pickle calls a function with a {type(arg).__name__}")
    return _Inert()


# The unpickler in Python, not the one in C: its operations can be replaced, and its slots are a dict, so that a store
# into slot 2^31 costs nothing. Its stub lacks most of what it has.
_Unpickler: Any = pickle._Unpickler


class _DryRun(_Unpickler):  # type: ignore[misc]
    """Runs a pickle of torch's with stand-ins."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: load for code, load in _Unpickler.dispatch.items() if bytes([code]) not in _UNUSED_OPCODES
    }

    def __init__(self, handle: IO[bytes] | _Bounded, check_storage: Callable[[str, int], None]) -> None:
        super().__init__(handle, encoding="utf-8")
        self._check_storage = check_storage

    def find_class(self, module: str, name: str) -> Any:
        named = f"{module}.{name}"
        if module in ("torch", "torch.storage") and name in _STORAGE_BYTES:
            return _Storage(_STORAGE_BYTES[name])
        if named in _CALLED:
            return _called
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return named
        raise RefusedFileError(f"its pickle asks for {named[:100]}")

    def persistent_load(self, pid: Any) -> _Inert:
        kind, storage, key, _location, count = pid[:5]
        if kind != "storage" or not isinstance(storage, _Storage) or type(count) is not int or count < 0:
            raise RefusedFileError("it names a storage in an unknown way")
        self._check_storage(str(key), count * storage.element_bytes)
        return _Inert()

    def load_setitem(self) -> None:
        _check_keys(self.stack[-2:-1])
        super().load_setitem()

    def load_setitems(self) -> None:
        _check_keys(self.stack[::2])
        super().load_setitems()

    def load_dict(self) -> None:
        _check_keys(self.stack[::2])
        super().load_dict()

    dispatch[pickle.DICT[0]] = load_dict
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems


def _check_keys(keys: list[Any]) -> None:
    """Hashing nested tuples takes exponential time, so that a key is a name or a number."""
    for key in keys:
        if not isinstance(key, (str, int)):
            raise RefusedFileError(f"its pickle uses a {type(key).__name__} as a key")
