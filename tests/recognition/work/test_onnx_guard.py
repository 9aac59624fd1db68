"""ONNX files that would take memory, time or other files are refused in one line, before or while they run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from recognition.errors import CheckpointError
from recognition.work.onnx_guard import MAX_ELEMENTS, check_onnx
from tests.helpers.onnx_bytes import field, number, onnx_model

IMAGES = {"x": [1, 3, 8, 8]}
Node = tuple[str, Sequence[str], Sequence[str]]


def model(nodes: Sequence[Node], **weights: np.ndarray) -> bytes:
    return onnx_model(nodes, inputs=IMAGES, outputs={nodes[-1][2][0]: ["n"]}, weights=weights)


def graph(*parts: bytes) -> bytes:
    return number(1, 8) + field(7, b"".join(parts)) + field(8, number(2, 13))


def attribute(*parts: bytes) -> bytes:
    return field(1, field(4, b"Conv") + field(5, b"".join(parts)))


LARGE = np.array([1 << 16, 1 << 16], np.int64)
TENSOR = number(2, 1) + field(8, b"w")
REFUSED = {
    "ConstantOfShape": (model([("ConstantOfShape", ["s"], ["y"])], s=LARGE), "makes 4,294,967,296 elements"),
    "Expand": (model([("Expand", ["x", "s"], ["y"])], s=LARGE), "makes 4,294,967,296 elements by Expand"),
    "Tile": (model([("Tile", ["x", "s"], ["y"])], s=LARGE), "makes 4,294,967,296 elements by Tile"),
    "Range": (model([("Range", ["a", "b", "a"], ["y"])], a=LARGE[:0], b=np.array(1 << 40)), "elements by Range"),
    "Resize": (
        model([("Resize", ["x", "", "s"], ["y"])], s=np.array([1, 1, 9999, 9999], np.float32)),
        "makes 99,980,001 elements by Resize",
    ),
    "Loop": (model([("Loop", ["x"], ["y"])]), "has the operator Loop"),
    "Scan": (model([("Scan", ["x"], ["y"])]), "has the operator Scan"),
    "If": (model([("If", ["x"], ["y"])]), "has the operator If"),
    "a graph inside": (graph(attribute(field(1, b"body"), field(6, b""))), "holds a graph within its graph"),
    "graphs inside": (graph(attribute(field(1, b"body"), field(11, b""))), "holds a graph within its graph"),
    "external data": (graph(field(5, TENSOR + field(13, b""))), "keeps weights in another file"),
    "external place": (graph(field(5, TENSOR + number(14, 1))), "keeps weights in another file"),
    "claims": (graph(field(5, TENSOR + number(1, 1 << 40) + field(9, bytes(8)))), "has a tensor of shape"),
    "a constant that claims": (
        graph(attribute(field(1, b"value"), field(5, number(1, 1 << 40) + number(2, 1)))),
        "has a tensor of shape",
    ),
    "below zero": (graph(field(5, TENSOR + number(1, (1 << 64) - 5))), "has a tensor of shape"),
    "sparse": (graph(field(15, b"")), "holds sparse weights"),
    "sparse constant": (graph(attribute(field(22, b""))), "holds a sparse constant"),
    "functions": (graph() + field(25, b""), "holds functions"),
    "training": (graph() + field(20, b""), "holds functions or a training graph"),
    "two graphs": (graph() + field(7, b""), "it has 2 graphs"),
    "padding": (graph(attribute(field(1, b"pads"), number(8, 1 << 30))), "has pads of 1,073,741,824"),
    "packed kernel": (
        graph(attribute(field(1, b"kernel_shape"), field(8, b"\xff\xff\xff\x7f"))),
        "has kernel_shape of 268,435,455",
    ),
    "input": (
        onnx_model([("Relu", ["x"], ["y"])], inputs={"x": [1, 3, 1 << 20, 1 << 20]}, outputs={"y": [1]}, weights={}),
        "asks for an input of",
    ),
    "many fields": (graph(number(1000, 1) * (1 << 18)), "has over 262,144 fields"),
    "empty": (b"", "is empty"),
    "a text": (b"hello, I am no network", "cannot be read as ONNX"),
    "cut off": (model([("Relu", ["x"], ["y"])])[:-3], "cannot be read as ONNX"),
    "endless number": (b"\x08" + b"\xff" * 20, "cannot be read as ONNX"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_take_any_memory_or_time_is_refused_unopened(name: str, tmp_path: Path) -> None:
    content, message = REFUSED[name]
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        check_onnx(tmp_path / "m.onnx")
    assert message in str(caught.value) and str(tmp_path / "m.onnx") in str(caught.value)


@pytest.mark.parametrize("name", ["folder", "pipe"])
def test_what_is_no_file_is_refused_without_waiting(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.mkdir() if name == "folder" else os.mkfifo(path)
    with pytest.raises(CheckpointError, match=r"m\.onnx"):
        check_onnx(path)


def test_plain_graphs_pass(tmp_path: Path) -> None:
    small = np.array([1, 3, MAX_ELEMENTS // 3], np.int64)
    nodes: list[Node] = [("Relu", ["x"], ["a"]), ("ConstantOfShape", ["s"], ["b"]), ("Shape", ["x"], ["c"])]
    nodes += [("Expand", ["x", "c"], ["y"])]
    (tmp_path / "m.onnx").write_bytes(model(nodes, s=small, w=np.zeros((64, 3, 3, 3), np.float32)))
    check_onnx(tmp_path / "m.onnx")


def run(tmp_path: Path, content: bytes) -> None:
    """Open a file and run it on its input."""
    pytest.importorskip("onnxruntime")
    from recognition.work.onnx_session import open_onnx

    (tmp_path / "m.onnx").write_bytes(content)
    open_onnx(tmp_path / "m.onnx").run(None, {"x": np.ones((1, 3, 8, 8), np.float32)})


def test_a_shape_that_the_graph_computes_is_held_by_the_limit_on_memory(tmp_path: Path) -> None:
    nodes: list[Node] = [("Add", ["s", "s"], ["t"]), ("ConstantOfShape", ["t"], ["y"])]
    content = model(nodes, s=np.array([1 << 16, 1 << 16], np.int64))
    assert len(content) < 300
    with pytest.raises(CheckpointError, match=r"m.onnx: does not run on \[1, 3, 8, 8\] \(.*; expected a network"):
        run(tmp_path, content)


def test_a_tensor_that_doubles_is_held_by_the_limit_on_memory(tmp_path: Path) -> None:
    nodes: list[Node] = [("Tile", [f"t{i}", "two"], [f"t{i + 1}"]) for i in range(30)]
    content = model([("Identity", ["x"], ["t0"]), *nodes], two=np.array([1, 1, 1, 2], np.int64))
    with pytest.raises(CheckpointError, match="does not run on"):
        run(tmp_path, content)


@pytest.mark.slow
def test_a_graph_that_computes_without_end_is_ended(tmp_path: Path) -> None:
    square = np.array([2000, 2000], np.int64)
    nodes: list[Node] = [("ConstantOfShape", ["s"], ["t0"])]
    nodes += [("MatMul", [f"t{i}", f"t{i}"], [f"t{i + 1}"]) for i in range(1000)]
    content = model([*nodes, ("Add", ["x", "x"], ["y"])], s=square)
    start = time.thread_time()
    with pytest.raises(CheckpointError, match="over 2 s of processor time"):
        run(tmp_path, onnx_model(nodes, inputs=IMAGES, outputs={"t1000": ["n"]}, weights={"s": square}))
    assert time.thread_time() - start < 20, "1,000 products take minutes"
    assert content


def test_the_limit_on_memory_is_lifted_afterwards(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    run(tmp_path, model([("Relu", ["x"], ["y"])]))
    assert resource.getrlimit(resource.RLIMIT_AS) == before
