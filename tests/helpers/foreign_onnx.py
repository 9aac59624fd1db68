"""ONNX files as others write them, and what they have to give, by a slow way of its own in float64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE, DIMENSION = 16, 8


def weight_of(num: int) -> np.ndarray:
    """Return a dense layer [num, DIMENSION]."""
    return np.random.default_rng(5).standard_normal((num, DIMENSION)).astype(np.float32) / 20


WEIGHT = weight_of(3 * SIDE * SIDE)


@dataclass
class Foreign:
    """A file: shape and type of its input, the nodes before the network, and what a byte has to become."""

    name: str
    shape: Sequence[int | str | None] = ("n", 3, SIDE, SIDE)
    dtype: int = TensorProto.FLOAT
    before: Sequence[tuple[str, Any]] = ()
    """(operator, constant or attributes) in a row; a float or array is the second input."""
    mean: float | Sequence[float] = 127.5
    std: float | Sequence[float] = 127.5
    bgr: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    flags: dict[str, Any] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)
    """Operator -> the name of its node."""
    after: str = "rows"
    as_node: bool = False
    """The constants are Constant nodes, not initializers."""

    def write(self, path: Path) -> Path:
        """Write the file."""
        sides = [size for size in self.shape[-3:] if isinstance(size, int)]
        weight = WEIGHT if len(sides) < 3 else weight_of(math.prod(sides[1 - len(self.shape) :]))
        nodes, tensors, name = [], [numpy_helper.from_array(weight, "W")], "data"
        for number, (operator, value) in enumerate(self.before):
            inputs, attributes = [name], {}
            if isinstance(value, dict):
                attributes = value
            else:
                constant = numpy_helper.from_array(np.asarray(value, np.float32), f"c{number}")
                inputs.append(constant.name)
                if self.as_node:
                    nodes.append(helper.make_node("Constant", [], [constant.name], value=constant))
                else:
                    tensors.append(constant)
            name = f"t{number}"
            nodes.append(
                helper.make_node(operator, inputs, [name], name=self.named.get(operator, f"step{number}"), **attributes)
            )
        outputs = [("fc1", [self.shape[0], DIMENSION])]
        nodes += [
            helper.make_node("Flatten", [name], ["flat"], name="flatten"),
            helper.make_node("MatMul", ["flat", "W"], ["fc1"], name="dense"),
        ]
        if self.after == "maps":
            tensors.append(numpy_helper.from_array(np.array([-1, DIMENSION, 1, 1]), "maps"))
            nodes.append(helper.make_node("Reshape", ["fc1", "maps"], ["out"]))
            outputs = [("out", [self.shape[0], DIMENSION, 1, 1])]
        if self.after == "one row":
            tensors.append(numpy_helper.from_array(np.array([1, -1]), "one"))
            nodes.append(helper.make_node("Reshape", ["fc1", "one"], ["out"]))
            outputs = [("out", [1, None])]
        if self.after == "norm too":
            nodes.append(helper.make_node("ReduceL2", ["fc1"], ["norm"], axes=[1]))
            outputs = [("norm", [self.shape[0], 1]), *outputs]
        values = [helper.make_tensor_value_info(out, TensorProto.FLOAT, shape) for out, shape in outputs]
        data = helper.make_tensor_value_info("data", self.dtype, self.shape)
        save(path, helper.make_graph(nodes, "g", [data], values, tensors), self.texts)
        return path

    def expected(self, images_rgb: np.ndarray) -> np.ndarray:
        """Return f(image) + f(mirror image)."""
        return self._rows(images_rgb) + self._rows(images_rgb[:, :, ::-1])

    def _rows(self, images_rgb: np.ndarray) -> np.ndarray:
        ordered = images_rgb[..., ::-1] if self.bgr else images_rgb
        pixels = (ordered.astype(np.float64) - np.asarray(self.mean)) / np.asarray(self.std)
        return pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1) @ WEIGHT


def save(path: Path, graph: Any, texts: dict[str, str] | None = None) -> None:
    """Write a graph of opset 13."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    helper.set_model_props(model, texts or {})
    onnx.save(model, str(path))
