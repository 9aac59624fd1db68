"""How a stranger's ONNX file wants its pixels: what its metadata, the first nodes of its graph, or flags say."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recognition.errors import CheckpointError, ConfigError
from recognition.images.preprocess import BYTES, UNIT, Channels, PixelScale
from recognition.work.extras import import_extra

_MOST_STEPS = 16
_PASSES = frozenset({"Cast", "Identity", "Transpose", "Dropout"})
_NAMED_SUB, _NAMED_MUL, _NAMED_WITHIN = ("Sub", "_minus"), ("Mul", "_mul"), 8
_NAMES_OF_MEAN = ("mean", "input_mean", "pixel_mean")
_NAMES_OF_STD = ("std", "input_std", "pixel_std")
_NAMES_OF_COLOR = ("color", "color_order", "channel_order")
_SMALLEST_STD = 1e-6
_HELP = "what (x - MEAN) / STD feeds a stranger's .onnx file: one number, or three by channel"


@dataclass(frozen=True)
class AskedScale:
    """What flags say of a file's pixels; None is not given."""

    mean: Channels | None = None
    std: Channels | None = None
    color: str | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            given, other = ("--std", "--mean") if self.mean is None else ("--mean", "--std")
            raise ConfigError(f"{given}: given without {other}; expected both; add {other}")

    def __bool__(self) -> bool:
        return self != AskedScale()

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        lists = {"mean": self.mean and list(self.mean), "std": self.std and list(self.std)}
        return {**lists, "color": self.color}

    def over(self, found: PixelScale) -> PixelScale:
        """Return `found` with what was asked for in its place."""
        if self.mean is None or self.std is None:
            return PixelScale(found.mean, found.std, self.color or found.color)
        return PixelScale(self.mean, self.std, self.color or found.color)


def add_scale_flags(parser: argparse.ArgumentParser) -> None:
    """Add --mean, --std and --color, which only a stranger's ONNX file needs."""
    parser.add_argument("--mean", type=_channels, metavar="X[,X,X]", help=_HELP)
    parser.add_argument("--std", type=_positive_channels, metavar="X[,X,X]", help="see --mean")
    parser.add_argument(
        "--color", choices=["RGB", "BGR"], help="order of the channels of a stranger's .onnx file (RGB)"
    )


def asked_scale(args: argparse.Namespace) -> AskedScale:
    """Return what the flags of `add_scale_flags` say; ConfigError for half of it."""
    return AskedScale(args.mean, args.std, args.color)


def scale_in_metadata(texts: Mapping[str, str], *, place: Path) -> PixelScale | None:
    """Return the scale that a stranger's metadata names, None where it names none; CheckpointError for half of it.

    Numbers up to 1 are of pixels from 0 to 1, as torchvision counts.
    """
    by_name = {name.lower(): text for name, text in texts.items()}
    mean = _first(by_name, _NAMES_OF_MEAN)
    std = _first(by_name, _NAMES_OF_STD)
    color = (_first(by_name, _NAMES_OF_COLOR) or "RGB").strip().upper()
    if mean is None and std is None:
        return None
    try:
        means, stds = _channels(mean or ""), _positive_channels(std or "")
    except (argparse.ArgumentTypeError, ValueError) as err:
        raise CheckpointError(
            f"{place}: its metadata says mean {mean!r:.60} and std {std!r:.60}; expected one number or three for each; "
            "give --mean and --std"
        ) from err
    if color not in ("RGB", "BGR"):
        raise CheckpointError(f"{place}: its metadata says color {color!r:.60}; expected RGB or BGR; give --color")
    if max(stds) <= 1 and max(means) <= 1 and (means, stds) != (BYTES.mean, BYTES.std):
        means, stds = (_times(values, 255) for values in (means, stds))
    return PixelScale(means, stds, color)


def scale_in_graph(model: Any, input_name: str, *, place: Path) -> PixelScale | None:
    """Return what the graph's own subtraction and division leave to do, None where it has none at its beginning.

    `model` is a ModelProto. The nodes that the input alone passes through are taken as one a x + b by channel; the
    input is bytes, numbers from 0 to 1 or from -1 to 1, whichever of them the network then sees around 0. Where the
    nodes are of another kind, names tell, as insightface's loader has it: Sub and Mul among the first eight.
    Raises CheckpointError when no such input fits.
    """
    factor, shift, num_steps = _first_steps(model.graph, input_name)
    if not num_steps:
        names = [node.name for node in model.graph.node[:_NAMED_WITHIN]]
        named = all(any(name.startswith(start) for name in names) for start in (_NAMED_SUB, _NAMED_MUL))
        return BYTES if named else None
    if np.allclose(factor, 1) and np.allclose(shift, 0):
        return None
    # In this order: a network that scales bytes is the commonest.
    for scale in (BYTES, UNIT, PixelScale()):
        low, high = ((edge - scale.mean[0]) / scale.std[0] * factor + shift for edge in (0, 255))
        half, middle = np.abs(high - low) / 2, np.abs(high + low) / 2
        if np.all((half >= 0.4) & (half <= 4) & (middle <= 1.5 * half)):
            return scale
    if np.all(np.abs(255 * factor / 2 + shift) <= np.abs(0.25 * 255 * factor / 2)):
        return BYTES  # a mean is taken away and nothing is divided
    raise CheckpointError(
        f"{place}: its first nodes make {factor[0]:g} x + {shift[0]:g} of a pixel x, which fits neither bytes nor "
        "numbers from 0 to 1 or -1 to 1; expected a known scale; give --mean and --std"
    )


def _first_steps(graph: Any, name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Return factor [3], shift [3] and the number of arithmetic nodes that the input passes alone."""
    constants = _constants(graph)
    factor, shift, num_steps = np.ones(3), np.zeros(3), 0
    for _ in range(_MOST_STEPS):
        users = [node for node in graph.node if name in node.input]
        if len(users) != 1:
            break
        (node,) = users
        if node.op_type not in _PASSES:
            step = _step(node, name, constants)
            if step is None:
                break
            factor, shift, num_steps = factor * step[0], shift * step[0] + step[1], num_steps + 1
        name = node.output[0]
    return factor, shift, num_steps


def _step(node: Any, name: str, constants: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the factor and shift of one node, each [3]; None when it is no arithmetic with a constant."""
    others = [given for given in node.input if given != name]
    if len(node.input) != 2 or len(others) != 1 or others[0] not in constants:
        return None
    value = np.asarray(import_extra("onnx.numpy_helper").to_array(constants[others[0]]), dtype=np.float64)
    if value.size not in (1, 3) or not np.isfinite(value).all():
        return None
    c, one, zero = np.broadcast_to(value.reshape(-1), 3), np.ones(3), np.zeros(3)
    is_first = node.input[0] == name
    if node.op_type == "Div" and is_first and np.all(np.abs(c) >= _SMALLEST_STD):
        return one / c, zero
    steps = {"Add": (one, c), "Mul": (c, zero), "Sub": (one, -c) if is_first else (-one, c)}
    return steps.get(node.op_type)


def _constants(graph: Any) -> dict[str, Any]:
    """Return the small constants of a graph by name, as TensorProtos: initializers, and what Constant nodes hold."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            tensors[node.output[0]] = node.attribute[0].t
    # A tensor in another file is never opened.
    return {name: t for name, t in tensors.items() if math.prod(t.dims) in (1, 3) and t.data_location == 0}


def _first(texts: Mapping[str, str], names: tuple[str, ...]) -> str | None:
    return next((texts[name] for name in names if name in texts), None)


def _channels(text: str) -> Channels:
    numbers = [float(word) for word in re.split(r"[\s,;]+", text.strip(" \t[]()")) if word]
    if len(numbers) not in (1, 3) or not all(math.isfinite(number) for number in numbers):
        raise argparse.ArgumentTypeError(f"{text!r} is neither one number nor three")
    first, second, third = numbers * (3 // len(numbers))
    return first, second, third


def _positive_channels(text: str) -> Channels:
    values = _channels(text)
    if min(values) < _SMALLEST_STD:
        raise argparse.ArgumentTypeError(f"{text!r} holds a number that is not above 0")
    return values


def _times(values: Channels, factor: float) -> Channels:
    first, second, third = (value * factor for value in values)
    return first, second, third
