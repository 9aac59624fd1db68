"""Weight files under insightface's names: find, read without running code, check every key, write.

Accepted are a plain state dict (arcface_torch's model.pt and backbone.pth), one wrapped under "state_dict_backbone"
(its checkpoints) or "state_dict", keys with DDP's "module." in front, and a run folder holding model.pt.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recognition.backbones import BACKBONES, build_backbone
from recognition.backbones.torch_file import RefusedFileError, check_torch_file, is_plain
from recognition.errors import CheckpointError
from recognition.work.files import staged

RUN_WEIGHTS = "model.pt"
"""Name of the weight file in a run folder."""

_WRAPPERS = ("state_dict_backbone", "state_dict")
_SHOWN = 5


def load_backbone(
    path: Path, network: str | None = None, *, device: torch.device | str = "cpu"
) -> tuple[nn.Module, str]:
    """Build the network that the weights at `path` belong to and return it in evaluation mode, with its name.

    `path` is a run folder or a .pt/.pth file. Without `network` the name is inferred from keys and shapes. Raises
    CheckpointError when the file is missing, is no weight file, or does not fit exactly.
    """
    file = find_weights(path)
    state = read_state_dict(file)
    module, name = _matching_network(state, network, place=file)
    module.to_empty(device=device)
    module.load_state_dict(state)
    return module.eval(), name


def load_weights(module: nn.Module, path: Path) -> int:
    """Fill `module` in place from a run folder or weight file and return the number of keys, all of which matched.

    Raises CheckpointError unless every key and shape fits.
    """
    file = find_weights(path)
    state = read_state_dict(file)
    check_fit(module, state, place=file)
    module.load_state_dict(state)
    return len(state)


def check_fit(module: nn.Module, state: Mapping[str, Tensor], *, place: Path) -> None:
    """Raise CheckpointError unless the keys and shapes of `state` are those of `module`; say whose they are instead."""
    misfit = _misfit(module.state_dict(), state)
    if not misfit:
        return
    advice = "use the weights of this very network"
    with contextlib.suppress(CheckpointError):
        name, embedding_size = infer_network(state)
        advice = f"they are those of backbone.network={name} backbone.embedding_size={embedding_size}"
    raise CheckpointError(f"{place}: does not fit the network: {misfit}; {advice}")


def save_backbone(module: nn.Module, path: Path) -> None:
    """Publish the weights of `module` at `path` as a plain state dict: insightface's names, float32, on the CPU."""
    state = OrderedDict()
    for key, tensor in module.state_dict().items():
        kept = tensor.detach().cpu()
        # contiguous: channels_last is how this run computes, not part of the weights.
        state[plain_key(key)] = (kept.float() if kept.is_floating_point() else kept).contiguous()
    with staged(path) as (temporary,):
        torch.save(state, temporary)


def infer_network(state: Mapping[str, Tensor]) -> tuple[str, int]:
    """Return (name, embedding size) of the network whose keys and shapes are those of `state`; else CheckpointError."""
    _, name = _matching_network(state, None, place="state dict")
    return name, _embedding_size(state)


def find_weights(path: Path) -> Path:
    """Return the weight file that `path` means: itself, or model.pt of the run folder; else CheckpointError."""
    if path.is_dir():
        if not (path / RUN_WEIGHTS).is_file():
            raise CheckpointError(
                f"{path}: holds no {RUN_WEIGHTS}; expected a run folder or a .pt/.pth file; "
                "a run writes it when it validates or ends"
            )
        return path / RUN_WEIGHTS
    if not path.is_file():
        raise CheckpointError(f"{path}: not found; expected a run folder or a .pt/.pth file; check the path")
    return path


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file on the CPU, without wrappers and "module." prefixes.

    Only tensors and plain containers are unpickled: a file that names anything else is a CheckpointError and runs
    nothing.
    """
    content = read_torch_file(path, expected="weights", written="a state dict written by torch.save")
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    if not isinstance(content, Mapping) or not content or not all(is_plain(value) for value in content.values()):
        raise CheckpointError(
            f"{path}: holds a {type(content).__name__} that is no state dict; expected names and tensors; "
            "save the backbone's state_dict()"
        )
    return {plain_key(str(key)): tensor for key, tensor in content.items()}


def read_torch_file(path: Path, *, expected: str, written: str, mmap: bool = False) -> Any:
    """Return what torch.save wrote to `path`, tensors on the CPU; anything but tensors and containers is refused.

    With `mmap` the tensors are pages of the file, read as they are touched. CheckpointError says that the file cannot
    be read as `expected`, which is `written`.
    """
    try:
        check_torch_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about pickle protocols, on the way to the error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    # What torch's readers raise on a file of another kind has no common class.
    except Exception as err:
        found = f"cannot be read as {expected} ({_reason(err)})"
        raise CheckpointError(f"{path}: {found}; expected {written}; take another file") from err


def plain_key(key: str) -> str:
    # DDP and torch.compile put their wrapper's name in front of every key.
    return key.removeprefix("module.").removeprefix("_orig_mod.")


def _reason(err: Exception) -> str:
    """Return one short line of what torch.load had to say, without its advice to load the file regardless."""
    if isinstance(err, RefusedFileError):
        return str(err)
    forbidden = re.search(r"GLOBAL (\S+)", str(err))
    if forbidden:
        return f"its pickle asks for {forbidden[1]}"
    detail = re.search(r"WeightsUnpickler error:\s*(.+)", str(err))
    text = detail[1] if detail else str(err).strip().partition("\n")[0]
    # A text file ends as the KeyError of its first byte.
    return "it is no torch file" if isinstance(err, KeyError) or not text else text[:120]


def _matching_network(state: Mapping[str, Tensor], network: str | None, *, place: Path | str) -> tuple[nn.Module, str]:
    """Return the network that `state` fits (`network` if given), built on meta, and its name; else CheckpointError."""
    name = network or next((name for name in BACKBONES if _keys(name) == state.keys()), None)
    if name is None:
        raise CheckpointError(
            f"{place}: its {len(state)} keys, the first of them {next(iter(state))!r}, are those of none of "
            f"{', '.join(BACKBONES)}; expected insightface's names; name the network to see what differs"
        )
    misfit = ""
    for image_size in _image_sizes(state):
        with torch.device("meta"):
            module = build_backbone(name, embedding_size=_embedding_size(state), image_size=image_size)
        found = _misfit(module.state_dict(), state)
        if not found:
            return module, name
        misfit = misfit or found
    raise CheckpointError(f"{place}: does not fit network {name!r}: {misfit}; use the network it was saved from")


@functools.cache
def _keys(name: str) -> frozenset[str]:
    with torch.device("meta"):
        return frozenset(build_backbone(name).state_dict())


def _misfit(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
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
