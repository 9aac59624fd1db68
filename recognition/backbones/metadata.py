"""What a model says of itself: the JSON inside a weight file, and the fingerprint of its weights.

The JSON comes from a disk or a stranger: its length, depth, names, types and ranges are checked before a value is
believed. Its fields are described in docs/formats.md.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recognition.backbones.architecture import Architecture
from recognition.errors import CheckpointError
from recognition.images.preprocess import COLOR_ORDER, PIXEL_MEAN, PIXEL_STD
from recognition.work.strict_json import parse_json

KEY = "arcshard"
"""The one metadata key of a weight file; its value is the JSON."""
FORMAT = 1
MAX_CHARACTERS = 1 << 20
_DEEPEST = 3
_LONGEST_TEXT = 4096
_LARGEST_OPTION = 1 << 16
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_SIZES = {"embedding_size": (1, 1 << 16), "image_size": (16, 4096)}
_SHOWN = 60


@dataclass(frozen=True)
class ModelMetadata:
    """All that a reader of weights has to know, and where they come from. What training fed is the default."""

    architecture: Architecture
    fingerprint: str | None = None
    """`weights_fingerprint` of the tensors beside it; None before they are written."""
    color: str = COLOR_ORDER
    """Order of the channels."""
    mean: float = PIXEL_MEAN
    std: float = PIXEL_STD
    """The network is fed (x - mean) / std of bytes x."""
    alignment: str = "arcface"
    """Name of the template that the faces were aligned to."""
    dataset: Mapping[str, int | str] = field(default_factory=dict)
    """Fingerprint of the training set."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """Of the run, by dotted key, without local paths."""
    revision: str = "unknown"
    """Of the code that trained it."""
    teacher: Mapping[str, int | str] = field(default_factory=dict)
    """Of a student: whose embeddings it learned, and that their mean was subtracted."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Numbers, or mappings of names to numbers: where the run stood and what its validation found."""

    def to_json(self) -> str:
        """Return one line of sorted JSON."""
        values = {
            "format": FORMAT,
            "network": self.architecture.network,
            "embedding_size": self.architecture.embedding_size,
            "image_size": self.architecture.image_size,
            "options": dict(self.architecture.options),
            "fingerprint": self.fingerprint,
            "color": self.color,
            "scaling": {"mean": self.mean, "std": self.std},
            "alignment": self.alignment,
            "dataset": dict(self.dataset),
            "config": dict(self.config),
            "revision": self.revision,
            "teacher": dict(self.teacher),
            "metrics": dict(self.metrics),
        }
        text = json.dumps(values, sort_keys=True, allow_nan=False)
        assert len(text) <= MAX_CHARACTERS, "metadata that no reader would take"
        return text

    @classmethod
    def from_json(cls, text: str, *, place: str) -> ModelMetadata:
        """Parse what `to_json` wrote; CheckpointError, beginning with `place`, for anything else. Unknown keys pass."""
        found = _Fields(_parse(text, place), place)
        number = found.values.get("format")
        if type(number) is not int or number != FORMAT:
            raise CheckpointError(
                f"{place}: metadata of format {number!r:.{_SHOWN}}; expected {FORMAT}; use the version that wrote it"
            )
        scaling = _Fields(found.take("scaling", _is_mapping, "a mapping"), f"{place}: scaling")
        return cls(
            architecture=Architecture(
                found.take("network", _is_name, "a network's name"),
                found.take("embedding_size", *_within("embedding_size")),
                found.take("image_size", *_within("image_size")),
                found.take("options", _all(_is_option), "names with numbers of at most 65,536 or texts"),
            ),
            fingerprint=found.take("fingerprint", _is_fingerprint, "64 hexadecimal digits"),
            color=found.take("color", _is_name, "the order of the channels"),
            mean=float(scaling.take("mean", _is_number, "a number")),
            std=float(scaling.take("std", lambda value: _is_number(value) and value > 0, "a number above 0")),
            alignment=found.take("alignment", _is_name, "a template's name"),
            dataset=found.take("dataset", _all(_is_plain), "names with plain values"),
            config=found.take("config", _is_mapping, "a mapping"),
            revision=found.take("revision", _is_text, "a text"),
            # Files of before there were teachers have none.
            teacher=found.take("teacher", _all(_is_plain), "names with plain values")
            if "teacher" in found.values
            else {},
            metrics=found.take("metrics", _all(_is_metric), "names with numbers"),
        )


def weights_fingerprint(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, types, shapes and bytes of CPU tensors, whatever file and order they came in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach()
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode("utf-8", "surrogatepass"))
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


class _Fields:
    """A mapping from which checked values are taken."""

    def __init__(self, values: Mapping[str, Any], place: str) -> None:
        self.values = values
        self._place = place

    def take(self, name: str, holds: Callable[[Any], bool], expected: str) -> Any:
        if name not in self.values:
            raise CheckpointError(f"{self._place}: metadata without {name!r}; expected {expected}; write it again")
        value = self.values[name]
        if not holds(value):
            raise CheckpointError(
                f"{self._place}: metadata {name!r} is {value!r:.{_SHOWN}}; expected {expected}; write it again"
            )
        return value


def _parse(text: str, place: str) -> Mapping[str, Any]:
    if len(text) > MAX_CHARACTERS:
        raise CheckpointError(
            f"{place}: {len(text):,} characters of metadata; expected at most {MAX_CHARACTERS:,}; take another file"
        )
    try:
        values = parse_json(text)
    except (ValueError, RecursionError) as err:
        reason = str(err).partition("\n")[0]
        raise CheckpointError(
            f"{place}: metadata is no JSON ({reason:.{_SHOWN}}); expected what a run writes; write it again"
        ) from err
    if not isinstance(values, dict) or not _is_shallow(values, _DEEPEST):
        raise CheckpointError(
            f"{place}: metadata is no mapping of at most {_DEEPEST} levels with short texts; expected what a run "
            "writes; write it again"
        )
    return values


def _is_shallow(value: Any, depth: int) -> bool:
    """Tell whether containers nest at most `depth` deep and every text is short and of one line."""
    if isinstance(value, dict):
        return depth > 0 and all(_is_text(key) and _is_shallow(entry, depth - 1) for key, entry in value.items())
    if isinstance(value, list):
        return depth > 0 and all(_is_shallow(entry, depth - 1) for entry in value)
    return not isinstance(value, str) or _is_text(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= _LONGEST_TEXT and (value.isprintable() or not value)


def _is_name(value: Any) -> bool:
    return _is_text(value) and 0 < len(value) <= 64


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, str) and _FINGERPRINT.fullmatch(value) is not None


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300 and math.isfinite(value)


def _is_plain(value: Any) -> bool:
    return type(value) is bool or _is_number(value) or _is_text(value)


def _is_option(value: Any) -> bool:
    # A network of a billion layers would be built, without weights, until the end of days.
    return _is_plain(value) and (isinstance(value, str) or abs(value) <= _LARGEST_OPTION)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


def _is_metric(value: Any) -> bool:
    return _is_number(value) or _all(_is_number)(value)


def _all(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(holds(entry) for entry in value.values())


def _within(name: str) -> tuple[Callable[[Any], bool], str]:
    low, high = _SIZES[name]
    return lambda value: type(value) is int and low <= value <= high, f"a whole number from {low} to {high:,}"
