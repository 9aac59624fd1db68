"""Write small ONNX files by hand, field by field of onnx.proto, so that no test needs the onnx package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def onnx_model(
    nodes: Sequence[tuple[str, Sequence[str], Sequence[str]]],
    *,
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Mapping[str, Sequence[int | str]],
    weights: Mapping[str, np.ndarray],
) -> bytes:
    """Return a model of float32 tensors, and int64 ones among `weights`.

    `nodes` are (operator, inputs, outputs) with their default attributes.
    """
    graph = b"".join(_node(*node) for node in nodes) + field(2, b"graph")
    graph += b"".join(field(5, _tensor(name, array)) for name, array in weights.items())
    graph += b"".join(field(11, _value(name, shape)) for name, shape in inputs.items())
    graph += b"".join(field(12, _value(name, shape)) for name, shape in outputs.items())
    opset = field(1, b"") + number(2, 13)
    return number(1, 8) + field(7, graph) + field(8, opset)


def _node(operator: str, inputs: Sequence[str], outputs: Sequence[str]) -> bytes:
    body = b"".join(field(1, name.encode()) for name in inputs)
    body += b"".join(field(2, name.encode()) for name in outputs)
    return field(1, body + field(4, operator.encode()))


def _tensor(name: str, array: np.ndarray) -> bytes:
    dims = b"".join(number(1, size) for size in array.shape)
    kind, stored = (7, "<i8") if array.dtype == np.int64 else (1, "<f4")
    return dims + number(2, kind) + field(8, name.encode()) + field(9, array.astype(stored).tobytes())


def _value(name: str, shape: Sequence[int | str]) -> bytes:
    dims = b"".join(field(1, number(1, size) if isinstance(size, int) else field(2, size.encode())) for size in shape)
    return field(1, name.encode()) + field(2, field(1, number(1, 1) + field(2, dims)))


def field(at: int, content: bytes) -> bytes:
    """Return a field of bytes: a message, a text, or packed numbers."""
    return _varint(at << 3 | 2) + _varint(len(content)) + content


def number(at: int, value: int) -> bytes:
    """Return a field of a number."""
    return _varint(at << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])
