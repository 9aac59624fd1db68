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
from recognition.backbones.families import guess_family
from recognition.console import count
from recognition.errors import CheckpointError

logger = logging.getLogger(__name__)

_SHOWN = 5


def infer_architecture(state: Mapping[str, Tensor], network: str | None = None, *, place: Path | str) -> Architecture:
    """Return the architecture that `state` fits, of `network` if it is given; CheckpointError when there is none.

    The network and the image size are the first that fit of several that do: 112 where it is among them.
    """
    names = [network] if network else [name for name in BACKBONES if _keys(name) == state.keys()]
    names = names or [name for name in BACKBONES if _is_beside_others(state, _keys(name), place)]
    if not names:
        family = guess_family(state.keys())
        looks = f"look like {family}" if family else "are of no kind known here"
        raise CheckpointError(
            f"{place}: its {len(state)} keys, the first of them {next(iter(state))!r}, {looks}; expected those of one "
            f"of {', '.join(BACKBONES)}; name the network to see what differs"
        )
    misfit = ""
    for name in names:
        own = backbone_part(state, _keys(name), place=place, logs=False)
        for image_size in _image_sizes(own):
            architecture = Architecture(name, _embedding_size(own), image_size)
            found = find_misfit(build_empty(architecture).state_dict(), own)
            if not found:
                return architecture
            misfit = misfit or found
    advice = _whose(state) if network else _look(state)
    raise CheckpointError(f"{place}: does not fit network {names[0]!r}: {misfit}; {advice}")


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
    raise CheckpointError(f"{place}: does not fit the network: {misfit}; {_whose(state)}")


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


def _whose(state: Mapping[str, Tensor]) -> str:
    """Return whose weights these are instead, as advice."""
    with contextlib.suppress(CheckpointError):
        found = infer_architecture(state, place="")
        return (
            f"they are those of backbone.network={found.network} backbone.embedding_size={found.embedding_size} "
            f"data.image_size={found.image_size}"
        )
    return _look(state)


def _look(state: Mapping[str, Tensor]) -> str:
    family = guess_family(state.keys())
    return f"they look like {family}; use the weights of this very network" if family else "use this network's weights"


# Of the last layer of each family, a vector as long as an embedding.
_LAST = ("features.bias", "features.layers.3.bias", "feature.3.bias", "output_layer.4.running_mean", "neck.3.bias")


def _embedding_size(state: Mapping[str, Tensor]) -> int:
    for key in _LAST:
        if key in state and state[key].ndim == 1:
            return max(1, len(state[key]))
    return 512


# A dense layer over the whole last map, and a vector as long as the map has channels.
_OVER_THE_MAP = (("fc.weight", "bn2.weight"), ("output_layer.3.weight", "output_layer.0.weight"))


def _image_sizes(state: Mapping[str, Tensor]) -> list[int]:
    """Return the image sizes that the last map allows, 112 first: a network's keys do not tell how often it halves."""
    halved: tuple[int, ...] = (16, 32)
    side = 0
    for dense, channels in _OVER_THE_MAP:
        if dense in state and channels in state:
            side = math.isqrt(state[dense].shape[-1] // max(1, len(state[channels])))
    if "features.layers.0.layers.0.weight" in state:
        side = state["features.layers.0.layers.0.weight"].shape[-1]
    if "pos_embed" in state and "patch_embed.proj.weight" in state and state["pos_embed"].ndim == 3:
        side, halved = math.isqrt(state["pos_embed"].shape[1]), (state["patch_embed.proj.weight"].shape[-1],)
    sizes = [side * times for times in halved]
    return [112] + [size for size in sizes if 16 <= size <= 4096 and size != 112]
