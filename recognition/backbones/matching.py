"""Which network weights belong to, read off their keys and shapes: all there is in a bare file of insightface."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
from collections.abc import Mapping, Set
from pathlib import Path

import torch
from torch import Tensor, nn

from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.architecture import Architecture
from recognition.console import count
from recognition.errors import CheckpointError

logger = logging.getLogger(__name__)

_SHOWN = 5


def infer_architecture(state: Mapping[str, Tensor], network: str | None = None, *, place: Path | str) -> Architecture:
    """Return the architecture that `state` fits, of `network` if it is given; CheckpointError when there is none.

    The image size is the first that fits of several that do: 112 where it is among them.
    """
    name = network or next((name for name in BACKBONES if _keys(name) == state.keys()), None)
    if name is None:
        name = next((name for name in BACKBONES if _is_beside_others(state, _keys(name), place)), None)
    if name is None:
        raise CheckpointError(
            f"{place}: its {len(state)} keys, the first of them {next(iter(state))!r}, are those of none of "
            f"{', '.join(BACKBONES)}; expected insightface's names; name the network to see what differs"
        )
    state = backbone_part(state, _keys(name), place=place, logs=False)
    misfit = ""
    for image_size in _image_sizes(state):
        architecture = Architecture(name, _embedding_size(state), image_size)
        found = find_misfit(build_empty(architecture).state_dict(), state)
        if not found:
            return architecture
        misfit = misfit or found
    raise CheckpointError(f"{place}: does not fit network {name!r}: {misfit}; use the network it was saved from")


def backbone_part(
    state: Mapping[str, Tensor], keys: Set[str], *, place: Path | str, logs: bool = True
) -> dict[str, Tensor]:
    """Return the tensors of a backbone with `keys`, without the prefix they share, such as "backbone.".

    What is beside a whole backbone is left out, and a line of the log says so. Where none is whole, everything is
    returned, for the message about what is missing. Raises CheckpointError when there are several.
    """
    prefixes = _whole_under(state, keys)
    if not prefixes or state.keys() == keys:
        return dict(state)
    if len(prefixes) > 1:
        found = ", ".join(map(repr, prefixes))
        raise CheckpointError(f"{place}: holds {len(prefixes)} backbones, under {found}; expected one; save one alone")
    heads = {key.partition(".")[0] for key in keys}
    own = {key: key.removeprefix(prefixes[0]) for key in state if key.startswith(prefixes[0])}
    # What begins as the backbone's keys do is taken with them: a larger network must not pass for a smaller one.
    own = {key: name for key, name in own.items() if name.partition(".")[0] in heads}
    others = [key for key in state if key not in own]
    if logs and prefixes[0]:
        logger.info("%s: takes the keys that begin with %r", place, prefixes[0])
    if logs and others:
        logger.warning("%s: leaves out %s of no backbone: %s", place, count(len(others), "tensor"), _first(others))
    return {name: state[key] for key, name in own.items()}


def _is_beside_others(state: Mapping[str, Tensor], keys: Set[str], place: Path | str) -> bool:
    return backbone_part(state, keys, place=place, logs=False).keys() == keys


def _whole_under(state: Mapping[str, Tensor], keys: Set[str]) -> list[str]:
    """Return the prefixes under which `state` has all of `keys`."""
    anchor = min(keys)
    prefixes = (key[: -len(anchor)] for key in state if key == anchor or key.endswith(f".{anchor}"))
    return [prefix for prefix in prefixes if all(prefix + key in state for key in keys)]


def build_empty(architecture: Architecture) -> nn.Module:
    """Build the network without memory for its weights, on the meta device."""
    with torch.device("meta"):
        return architecture.build()


def check_fit(module: nn.Module, state: Mapping[str, Tensor], *, place: Path) -> None:
    """Raise CheckpointError unless the keys and shapes of `state` are those of `module`; say whose they are instead."""
    misfit = find_misfit(module.state_dict(), state)
    if not misfit:
        return
    advice = "use the weights of this very network"
    with contextlib.suppress(CheckpointError):
        found = infer_architecture(state, place=place)
        advice = f"they are those of backbone.network={found.network} backbone.embedding_size={found.embedding_size}"
    raise CheckpointError(f"{place}: does not fit the network: {misfit}; {advice}")


def find_misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Return how `given` differs from the keys and shapes of `own`, or "" when it does not."""
    shared = own.keys() & given.keys()
    reshaped = [
        f"{key} {list(given[key].shape)} instead of {list(tensor.shape)}"
        for key, tensor in own.items()
        if key in shared and given[key].shape != tensor.shape
    ]
    kinds = {
        "missing": [key for key in own if key not in shared],
        "unexpected": [key for key in given if key not in shared],
        "of another shape": reshaped,
    }
    return ", ".join(f"{len(keys)} keys {kind} ({_first(keys)})" for kind, keys in kinds.items() if keys)


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


@functools.cache
def _keys(name: str) -> frozenset[str]:
    with torch.device("meta"):
        return frozenset(build_backbone(name).state_dict())


def _embedding_size(state: Mapping[str, Tensor]) -> int:
    for key in ("features.bias", "features.layers.3.bias"):
        if key in state and state[key].ndim == 1:
            return max(1, len(state[key]))
    return 512


def _image_sizes(state: Mapping[str, Tensor]) -> list[int]:
    """Return the image sizes that the last map allows, 112 first: a network's keys do not tell how often it halves."""
    if "fc.weight" in state and "bn2.weight" in state:
        side = math.isqrt(state["fc.weight"].shape[-1] // max(1, len(state["bn2.weight"])))
    elif "features.layers.0.layers.0.weight" in state:
        side = state["features.layers.0.layers.0.weight"].shape[-1]
    else:
        return [112]
    return [112] + [side * halvings for halvings in (16, 32) if side * halvings not in (0, 112)]
