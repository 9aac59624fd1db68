"""Look at an ONNX file before it is opened: it is a program, and a few bytes of it can ask for any memory and time.

Torch-free, and without the onnx package. The file is walked field by field (onnx.proto's numbers), nothing of it is
copied. Refused are the operators that hold a graph of their own (Loop, Scan, If), local functions, weights in other
files, tensors that claim more than they bring, and shapes beyond `MAX_ELEMENTS` for what makes large from small. What a
graph computes while it runs is bounded by `onnx_session`.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from recognition.errors import CheckpointError

MAX_ELEMENTS = 1 << 22
"""Largest tensor that an operator may be told to make out of a small one: 16 MiB of float32."""
MAX_INPUT_ELEMENTS = 1 << 25
"""Largest input that a graph may ask for: ten times a detector's 1280 x 1280 picture."""
_MAX_FIELDS = 1 << 18  # a network of 10,000 operators has some 200,000
_MAX_SETTING = 1 << 12  # of a kernel, its padding, its steps
_GRAPH_OPERATORS = frozenset({"Loop", "Scan", "If", "SequenceMap"})
_RANDOM_OPERATORS = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_SHAPED = {"ConstantOfShape": (0,), "Expand": (1,), "Tile": (1,), "Range": (0, 1), "Resize": (2, 3), "Upsample": (1,)}
"""Operator -> which of its inputs say how much it makes."""
_SETTINGS = frozenset({"pads", "kernel_shape", "dilations", "strides", "output_padding", "output_shape"})
_INT64, _FLOAT = 7, 1


class _Field(NamedTuple):
    """A field of a message: its number, and its value, a number or the bytes of a message or text."""

    number: int
    value: int
    content: memoryview


@dataclass
class _Budget:
    """How many more fields may come: walking them is the cost of this module."""

    left: int = _MAX_FIELDS


@dataclass
class _Walk:
    """What was seen of a graph."""

    budget: _Budget
    constants: dict[str, int] = field(default_factory=dict)
    """Name of a small constant -> the product of its numbers, of a scale rounded up."""
    operators: list[tuple[str, list[str]]] = field(default_factory=list)
    """Those whose inputs decide how much they make, with the names of these."""


class _RefusedError(Exception):
    """What is wrong with the file."""


def check_onnx(path: Path) -> None:
    """Raise CheckpointError unless the ONNX file at `path` is a plain file with a graph that the module lets pass."""
    try:
        with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb", buffering=0) as handle:
            if not path.is_file():
                raise _RefusedError("is no plain file")
            if not os.fstat(handle.fileno()).st_size:
                raise _RefusedError("is empty")
            # Left to its last reader: an error's frames hold pieces of it.
            _check_model(memoryview(mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)))
    except _RefusedError as err:
        raise CheckpointError(
            f"{path}: {err}; expected an ONNX file with the plain graph of a network; do not use this file"
        ) from err
    except OSError as err:
        raise CheckpointError(
            f"{path}: cannot be read ({err.strerror or err}); expected an ONNX file; check the path"
        ) from err


def _check_model(content: memoryview) -> None:
    walk = _Walk(_Budget())
    graphs = 0
    for part in _fields(content, walk.budget):
        if part.number in (20, 25):
            raise _RefusedError("holds functions or a training graph")
        if part.number == 7:
            graphs += 1
            _check_graph(part.content, walk)
    if graphs != 1:
        raise _RefusedError(f"cannot be read as ONNX (it has {graphs} graphs)")
    for operator, inputs in walk.operators:
        for at in _SHAPED[operator]:
            made = walk.constants.get(inputs[at], 0) if at < len(inputs) else 0
            if made > MAX_ELEMENTS:
                raise _RefusedError(f"makes {made:,} elements by {operator}, over {MAX_ELEMENTS:,}")


def _check_graph(content: memoryview, walk: _Walk) -> None:
    inputs: dict[str, int] = {}
    weights: set[str] = set()
    for part in _fields(content, walk.budget):
        if part.number == 1:
            _check_node(part.content, walk)
        elif part.number == 5:
            name, product = _check_tensor(part.content, walk.budget)
            weights.add(name)
            walk.constants[name] = product
        elif part.number == 11:
            name, elements = _value_elements(part.content, walk.budget)
            inputs[name] = elements
        elif part.number == 15:
            raise _RefusedError("holds sparse weights")
    for name in inputs.keys() - weights:
        if inputs[name] > MAX_INPUT_ELEMENTS:
            raise _RefusedError(f"asks for an input of {inputs[name]:,} elements, over {MAX_INPUT_ELEMENTS:,}")


def _check_node(content: memoryview, walk: _Walk) -> None:
    inputs: list[str] = []
    outputs: list[str] = []
    operator = ""
    constant = 0
    for part in _fields(content, walk.budget):
        if part.number == 1:
            inputs.append(_text(part))
        elif part.number == 2:
            outputs.append(_text(part))
        elif part.number == 4:
            operator = _text(part)
        elif part.number == 5:
            constant = _check_attribute(part.content, walk.budget) or constant
    if operator in _GRAPH_OPERATORS | _RANDOM_OPERATORS:
        raise _RefusedError(f"has the operator {operator}")
    if operator in _SHAPED:
        walk.operators.append((operator, inputs))
    if operator == "Constant" and outputs:
        walk.constants[outputs[0]] = constant


def _check_attribute(content: memoryview, budget: _Budget) -> int:
    """Check an attribute and return the product of what it holds as a constant."""
    name, product, tensors = "", 0, 0
    numbers: list[int] = []
    for part in _fields(content, budget):
        if part.number == 1:
            name = _text(part)
        elif part.number in (6, 11):
            raise _RefusedError("holds a graph within its graph, as Loop, Scan and If do")
        elif part.number in (22, 23):
            raise _RefusedError("holds a sparse constant")
        elif part.number in (5, 10):
            tensors += part.number == 5
            product = _check_tensor(part.content, budget)[1]
        elif part.number == 3:
            numbers.append(_signed(part.value))
        elif part.number == 8:
            numbers += _numbers(part, budget)
    if tensors > 1:
        raise _RefusedError("gives a constant twice")
    if name in _SETTINGS and any(abs(number) > _MAX_SETTING for number in numbers):
        raise _RefusedError(f"has {name} of {max(map(abs, numbers)):,}, over {_MAX_SETTING:,}")
    return product or _product(numbers)


def _check_tensor(content: memoryview, budget: _Budget) -> tuple[str, int]:
    """Check a tensor and return its name and the product of its numbers; 0 where it holds many or other ones."""
    name, kind, num_bytes = "", 0, 0
    shape: list[int] = []
    numbers: list[int] = []
    raw = memoryview(b"")
    for part in _fields(content, budget):
        if part.number == 1:
            shape += _numbers(part, budget)
        elif part.number == 2:
            kind = part.value
        elif part.number == 8:
            name = _text(part)
        elif part.number == 13 or (part.number == 14 and part.value):
            raise _RefusedError("keeps weights in another file")
        elif part.number in (4, 5, 6, 7, 9, 10, 11):
            num_bytes += len(part.content) or 1
            raw = part.content if part.number == 9 else raw
            if part.number == 7 and len(part.content) <= 128:
                numbers += _numbers(part, budget)
    elements = _product(shape) if shape else 1
    if min(shape, default=0) < 0 or elements > 2 * num_bytes:
        raise _RefusedError(f"has a tensor of shape {shape[:8]} with {num_bytes:,} bytes")
    return name, _product(numbers) if numbers else _raw_product(raw, kind)


def _raw_product(raw: memoryview, kind: int) -> int:
    """Return the product of the few numbers in a tensor's own bytes; 0 for anything but a shape or a scale."""
    if len(raw) > 128 or kind not in (_INT64, _FLOAT) or len(raw) % (8 if kind == _INT64 else 4):
        return 0
    if kind == _INT64:
        return _product(raw.cast("q").tolist())
    scale = 1.0
    for number in raw.cast("f").tolist():
        scale *= max(1.0, number)
    return int(min(scale, 1e18)) if scale == scale else 0


def _value_elements(content: memoryview, budget: _Budget) -> tuple[str, int]:
    """Return the name of an input and how many elements its fixed sides make."""
    name = ""
    sides = [1]
    for part in _fields(content, budget):
        if part.number == 1:
            name = _text(part)
        elif part.number == 2:  # type -> tensor type -> shape -> dimension -> its size
            for kind in _only(part.content, 1, budget):
                for shape in _only(kind, 2, budget):
                    for dimension in _only(shape, 1, budget):
                        sides += [_signed(size.value) for size in _fields(dimension, budget) if size.number == 1]
    return name, _product(sides)


def _only(content: memoryview, number: int, budget: _Budget) -> Iterator[memoryview]:
    return (part.content for part in _fields(content, budget) if part.number == number)


def _product(numbers: list[int]) -> int:
    product = 1
    for number in numbers:
        product *= min(max(abs(number), 1), 1 << 62)
        product = min(product, 1 << 62)
    return product if numbers else 0


def _text(part: _Field) -> str:
    return bytes(part.content[:1000]).decode("utf-8", "replace")


def _numbers(part: _Field, budget: _Budget) -> list[int]:
    """Return the numbers of a repeated field, alone or packed."""
    if not len(part.content):
        return [_signed(part.value)]
    found, at = [], 0
    while at < len(part.content):
        value, at = _varint(part.content, at)
        found.append(_signed(value))
        _spend(budget)
    return found


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _fields(content: memoryview, budget: _Budget) -> Iterator[_Field]:
    """Yield the fields of a message; _RefusedError when it is none, or when there are too many."""
    at, end = 0, len(content)
    nothing = memoryview(b"")
    while at < end:
        _spend(budget)
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield _Field(number, value, nothing)
            continue
        if wire == 2:
            length, at = _varint(content, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise _RefusedError("cannot be read as ONNX (a field of an unknown kind)")
        if not number or at + length > end:
            raise _RefusedError("cannot be read as ONNX (it is cut off, or is another file)")
        yield _Field(number, 0, content[at : at + length])
        at += length


def _spend(budget: _Budget) -> None:
    budget.left -= 1
    if budget.left < 0:
        raise _RefusedError(f"has over {_MAX_FIELDS:,} fields")


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(content) and shift < 70:
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise _RefusedError("cannot be read as ONNX (it is cut off, or is another file)")
