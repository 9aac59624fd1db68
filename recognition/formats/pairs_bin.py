"""Read and write the field's verification packs (`lfw.bin`) without trusting the pickle inside. Torch-free.

A pack is the pickle of (images, is_same): 2n encoded images, pair i being images 2i and 2i+1, and n flags. The packs in
circulation come from Python 2 and 3, with an image as bytes or as a uint8 array. A pickle is a program; this reader
runs it with stand-ins for the few numpy functions such a pack names, and nothing else can be called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recognition.errors import DataError
from recognition.work.files import staged
from recognition.work.inputs import require_plain

MAX_FILE_BYTES = 1 << 30
"""Largest pack that is read; the field's largest holds 14,000 images in about 80 MB."""
MAX_OPCODES = 4_000_000
"""Longest pickle that is run; an image takes about ten opcodes, and each may leave an object of a hundred bytes."""

# Left out on purpose: dicts and sets (hashing nested tuples takes exponential time), persistent ids, extension codes.
_OPCODE_NAMES = """
    PROTO STOP FRAME MARK NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3
    STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    BINBYTES SHORT_BINBYTES BINBYTES8 BYTEARRAY8
    GLOBAL STACK_GLOBAL REDUCE BUILD INST OBJ NEWOBJ NEWOBJ_EX
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
"""
_OPCODES = frozenset(_OPCODE_NAMES.split())
_PUT_OPCODES = frozenset({"PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"})
_SPARE_SLOTS = 1000  # picklers count slots up; those that drop unused ones leave gaps


@dataclass(frozen=True, eq=False)
class Pairs:
    """Encoded images, two per pair, and whether each pair shows one person (bool [n])."""

    images: list[bytes]
    is_same: np.ndarray

    def __len__(self) -> int:
        return len(self.is_same)


def read_pairs(path: Path) -> Pairs:
    """Read a verification pack; the images stay encoded.

    Raises DataError when the file is missing, names any function or class a pack has no use for, or holds anything but
    an even number of images and one flag per pair.
    """
    require_plain(path)
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise DataError(f"{path}: {size:,} bytes; expected at most {MAX_FILE_BYTES:,}; split the pack")
        content = path.read_bytes()
    except OSError as err:
        reason = err.strerror or err
        raise DataError(f"{path}: cannot be read ({reason}); expected a verification .bin; check the path") from err
    _check_opcodes(content, path)
    try:
        found = _PairsUnpickler(io.BytesIO(content), encoding="bytes").load()
        return _validated(found, path)
    except DataError:
        raise
    except _RefusedError as err:
        raise DataError(f"{path}: {err}; expected only bytes, flags and uint8 arrays; do not use this file") from err
    except Exception as err:  # a hostile pickle can end in almost any exception; none may pass as anything else
        raise _not_a_pack(path, f"the pickle is damaged ({type(err).__name__})") from err


def write_pairs(path: Path, images: Sequence[bytes], is_same: Sequence[bool] | np.ndarray) -> None:
    """Write a pack as arcface_torch's readers expect it; equal input gives equal bytes. Replaces what was there."""
    with staged(path) as (temporary,):
        dump_pairs(temporary, images, is_same)


def dump_pairs(path: Path, images: Sequence[bytes], is_same: Sequence[bool] | np.ndarray) -> None:
    """Write a pack into a file as it stands, for a caller that puts the whole file into its place."""
    if len(images) != 2 * len(is_same):
        raise ValueError(f"{len(images)} images for {len(is_same)} pairs; expected two images per pair")
    # pickle refers back to objects it has met by identity; one object per content makes equal bytes.
    first: dict[bytes, bytes] = {}
    shared = [first.setdefault(bytes(image), bytes(image)) for image in images]
    with open(path, "wb") as handle:
        pickle.dump((shared, [bool(flag) for flag in is_same]), handle, protocol=pickle.HIGHEST_PROTOCOL)


class _RefusedError(Exception):
    """The pickle asked for something that no pack needs."""


class _StandIn:
    """A callable that a pickle may call but cannot give attributes to (BUILD would otherwise write to a function's)."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:
        raise _RefusedError("the pickle changes the state of a function")


class _DType:
    """What a pickled numpy dtype says of itself: its code, such as "u1"."""

    __slots__ = ("code",)

    def __init__(self, code: str | bytes, *_flags: object) -> None:
        self.code = code.decode("ascii") if isinstance(code, bytes) else code
        if self.code not in ("u1", "i1", "b1", "i4", "i8"):
            raise _RefusedError(f"the pickle holds a numpy array of type {str(self.code)[:20]!r}")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes, and the packs with wider flags are little-endian."""


class _Array:
    """A pickled array, kept as its raw bytes."""

    __slots__ = ("dtype", "raw")

    def __init__(self) -> None:
        self.raw: bytes = b""
        self.dtype = _DType("u1")

    def __setstate__(self, state: object) -> None:
        if not (isinstance(state, tuple) and len(state) == 5):
            raise _RefusedError("the pickle holds a numpy array of unknown form")
        _version, _shape, dtype, _is_fortran, raw = state
        self._fill(raw, dtype)

    def _fill(self, raw: object, dtype: object) -> None:
        if not isinstance(raw, (bytes, bytearray)) or not isinstance(dtype, _DType):
            raise _RefusedError("the pickle holds a numpy array of unknown form")
        self.raw, self.dtype = raw, dtype  # type: ignore[assignment]

    @staticmethod
    def from_buffer(raw: object, dtype: object, *_shape: object) -> _Array:
        array = _Array()
        array._fill(raw, dtype)
        return array

    def __len__(self) -> int:
        width = int(self.dtype.code[-1])
        if len(self.raw) % width:
            raise _RefusedError("the pickle holds a numpy array that is cut off")
        return len(self.raw) // width

    def values(self) -> list[int]:
        order = "<" if self.dtype.code[-1] != "1" else "|"
        numbers: list[int] = np.frombuffer(self.raw, np.dtype(order + self.dtype.code)).astype(np.int64).tolist()
        return numbers


def _scalar(dtype: object, raw: object) -> object:
    array = _Array.from_buffer(raw, dtype)
    if len(array) != 1:
        raise _RefusedError("the pickle holds a numpy scalar of unknown form")
    return array.values()[0]


class _PairsUnpickler(pickle.Unpickler):
    """Resolves the names that packs of any age use, to stand-ins; every other name is refused."""

    def __init__(self, file: io.BytesIO, *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)
        self._encoded_budget = len(file.getbuffer())
        numpy_names: dict[str, Callable[..., Any]] = {
            "multiarray._reconstruct": lambda *_: _Array(),
            "multiarray.scalar": _scalar,
            "numeric._frombuffer": _Array.from_buffer,
        }
        self._known: dict[str, _StandIn] = {
            f"numpy.{core}.{name}": _StandIn(function)
            for core in ("core", "_core")
            for name, function in numpy_names.items()
        }
        self._known |= {"numpy.dtype": _StandIn(_DType), "numpy.ndarray": _StandIn(_refuse_call)}
        # How Python 3 spells bytes in protocols 0 to 2.
        self._known |= {"_codecs.encode": _StandIn(self._encode)}
        self._known |= {f"{module}.bytes": _StandIn(lambda: b"") for module in ("builtins", "__builtin__")}

    def find_class(self, module: str, name: str) -> Any:
        found = self._known.get(f"{module}.{name}")
        if found is None:
            raise _RefusedError(f"the pickle asks for {module}.{name}"[:200])
        return found

    def _encode(self, text: object, codec: object) -> bytes:
        if not isinstance(text, str) or codec not in ("latin1", b"latin1"):
            raise _RefusedError("the pickle encodes text in an unknown way")
        # Each call copies; two bytes of pickle can repeat it, so the sum is held to what the file can have stored.
        self._encoded_budget -= len(text)
        if self._encoded_budget < 0:
            raise _RefusedError("the pickle unfolds into more bytes than the file has")
        return text.encode("latin1")


def _refuse_call(*_args: object) -> None:
    raise _RefusedError("the pickle calls numpy.ndarray itself")


def _check_opcodes(content: bytes, path: Path) -> None:
    """Refuse what costs memory or time before anything runs: a store into slot 2^31 makes it fill 32 GB."""
    num_stored = 0
    try:
        for number, (opcode, argument, position) in enumerate(pickletools.genops(content)):
            if number == MAX_OPCODES:
                raise _not_a_pack(path, f"the pickle has over {MAX_OPCODES:,} opcodes")
            if opcode.name not in _OPCODES:
                raise _not_a_pack(path, f"the pickle uses {opcode.name} at byte {position}")
            if opcode.name in _PUT_OPCODES:
                num_stored += 1
                if isinstance(argument, int) and not 0 <= argument <= num_stored + _SPARE_SLOTS:
                    raise _not_a_pack(path, f"the pickle stores into slot {argument} at byte {position}")
    except (ValueError, IndexError, OverflowError, MemoryError) as err:
        raise _not_a_pack(path, "the file is no pickle, or is cut off") from err


def _validated(found: object, path: Path) -> Pairs:
    if not (isinstance(found, (tuple, list)) and len(found) == 2 and isinstance(found[0], (list, tuple))):
        raise _not_a_pack(path, "the pickle holds something else")
    images, flags = found
    if not isinstance(flags, (list, tuple, _Array)):
        raise _not_a_pack(path, "the flags are not a list")
    if len(images) % 2:
        raise _not_a_pack(path, f"{len(images):,} images, an odd number")
    if len(images) != 2 * len(flags):
        raise _not_a_pack(path, f"{len(images):,} images for {len(flags):,} pairs")
    if not len(flags):
        raise _not_a_pack(path, "no pairs")
    flags = flags.values() if isinstance(flags, _Array) else flags
    for index, flag in enumerate(flags):
        if not isinstance(flag, int) or flag not in (0, 1):
            raise _not_a_pack(path, f"the flag of pair {index} is neither true nor false")
    # One copy per object: a few bytes of pickle can refer to one large array any number of times.
    encoded: dict[int, bytes] = {}
    for index, image in enumerate(images):
        if id(image) not in encoded:
            encoded[id(image)] = _image(image, index, path)
    return Pairs([encoded[id(image)] for image in images], np.array(flags, dtype=bool))


def _image(image: object, index: int, path: Path) -> bytes:
    if isinstance(image, _Array) and image.dtype.code in ("u1", "i1"):
        image = image.raw
    if not isinstance(image, (bytes, bytearray)):
        raise _not_a_pack(path, f"image {index} is of type {type(image).__name__.strip('_').lower()}, not bytes")
    return bytes(image)


def _not_a_pack(path: Path, what: str) -> DataError:
    return DataError(f"{path}: {what}; expected a verification .bin with two images and one flag per pair; pack again")
