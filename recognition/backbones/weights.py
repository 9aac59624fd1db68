"""Weight files under insightface's names: find, read without running code, check every key, write.

Accepted are our self-describing model.safetensors; a plain state dict (arcface_torch's model.pt and backbone.pth), one
wrapped under "state_dict_backbone" (its checkpoints) or another usual name; keys with a prefix in front, such as DDP's
"module." or "backbone."; a checkpoint of AdaFace's trainer; and a run folder. Keys of a head beside a whole backbone
are left out, and what counts batches may be missing. What a file says of itself is believed, then the run folder's
config.yaml; keys and shapes decide where neither is there. Numbers that are not finite are refused by the name of
their tensor.
"""

from __future__ import annotations

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recognition.backbones.architecture import Architecture
from recognition.backbones.foreign import turned_to_rgb
from recognition.backbones.matching import (
    backbone_part,
    build_empty,
    check_fit,
    find_misfit,
    infer_architecture,
)
from recognition.backbones.metadata import KEY, ModelMetadata, weights_fingerprint
from recognition.backbones.safetensors_file import SUFFIX, read_safetensors, write_safetensors
from recognition.backbones.torch_file import RefusedFileError, check_torch_file, is_plain
from recognition.config.loader import load_config
from recognition.console import count
from recognition.errors import CheckpointError, ConfigError
from recognition.formats.model_facts import ModelFacts
from recognition.images.preprocess import COLOR_ORDER, PIXEL_MEAN, PIXEL_STD
from recognition.work.files import staged

RUN_MODEL = f"model{SUFFIX}"
"""Name of the self-describing weights in a run folder."""
RUN_WEIGHTS = "model.pt"
"""Name of the same weights for insightface's programs."""
RUN_CONFIG = "config.yaml"

_WRAPPERS = ("state_dict_backbone", "state_dict", "model_state_dict", "backbone", "model", "network", "net")
_COUNTER, _STATISTICS = ".num_batches_tracked", ".running_mean"


@dataclass(frozen=True)
class Model:
    """A network with its weights, in evaluation mode, and what is known of it."""

    module: nn.Module
    file: Path
    architecture: Architecture
    facts: ModelFacts
    told_by: str | None
    """What says the architecture, for people; None where it was read off keys and shapes, which leave the image size
    open within a few pixels."""
    metadata: ModelMetadata | None = None
    """What the file says of itself, if it does."""

    @property
    def image_size(self) -> int | None:
        """Side of the images that it takes; None where nothing says it."""
        return None if self.told_by is None else self.architecture.image_size


def load_backbone(path: Path, network: str | None = None, *, device: torch.device | str = "cpu") -> Model:
    """Build the network that the weights at `path` belong to, fill it, and return it in evaluation mode.

    `path` is a run folder or a weight file; `network` names the network of a bare file whose keys do not. Raises
    CheckpointError when the file is missing, is no weight file, does not fit exactly, or says something else than
    `network`.
    """
    file = find_weights(path)
    state, metadata = read_weights(file)
    told, told_by = _told(file, metadata)
    if told is not None and network not in (None, told.network):
        raise CheckpointError(
            f"{file}: {told_by} says network {told.network!r}; asked for {network!r}; leave the network out"
        )
    architecture = told or infer_architecture(state, network, place=file)
    module, state = _build_fitting(architecture, state, file, told_by or "its keys")
    module.to_empty(device=device)
    module.load_state_dict(state)
    facts = ModelFacts(
        fingerprint=weights_fingerprint(state) if metadata is None else metadata.fingerprint,
        network=architecture.network,
        embedding_size=architecture.embedding_size,
        image_size=None if told is None else told.image_size,
        alignment=None if metadata is None else metadata.alignment,
        dataset=None if metadata is None else metadata.dataset,
    )
    return Model(module.eval(), file, architecture, facts, told_by, metadata)


def load_weights(module: nn.Module, path: Path, *, asked: Architecture | None = None) -> int:
    """Fill `module` in place from a run folder or weight file and return the number of keys, all of which matched.

    Raises CheckpointError unless every key and shape fits, and when the file says another architecture than `asked`.
    """
    state = _read_fitting(path, asked, module)
    module.load_state_dict(state)
    return len(state)


def check_weights(path: Path, asked: Architecture) -> None:
    """Raise CheckpointError unless the weights at `path`, a run folder or a file, are those of `asked`."""
    _read_fitting(path, asked, build_empty(asked))


def _read_fitting(path: Path, asked: Architecture | None, module: nn.Module) -> dict[str, Tensor]:
    """Return the tensors for `module` at `path`; raises as `load_weights` does."""
    file = find_weights(path)
    state, metadata = read_weights(file)
    told, told_by = _told(file, metadata)
    if told is not None and asked is not None and told != asked:
        given, wanted = told.by_key(), asked.by_key()
        differing = [key for key in {**given, **wanted} if given.get(key) != wanted.get(key)]
        found = " ".join(f"{key}={given.get(key)}" for key in differing)
        expected = " ".join(f"{key}={wanted.get(key)}" for key in differing)
        raise CheckpointError(
            f"{file}: {told_by} says {found}; expected {expected}, as the config asks; make them agree"
        )
    state = backbone_part(state, module.state_dict().keys(), place=file)
    check_fit(module, state, place=file)
    return state


def save_model(module: nn.Module, folder: Path, metadata: ModelMetadata) -> None:
    """Publish the weights of `module` in a run folder: model.safetensors, which says what it is, and model.pt.

    Each is whole or absent, and model.pt comes last: where it is, the other is too.
    """
    state = plain_state(module)
    metadata = replace(metadata, fingerprint=weights_fingerprint(state))
    with staged(folder / RUN_MODEL, folder / RUN_WEIGHTS) as (described, plain):
        write_safetensors(described, state, metadata={KEY: metadata.to_json()})
        torch.save(state, plain)


def save_backbone(module: nn.Module, path: Path) -> None:
    """Publish the weights of `module` at `path` as a plain state dict: insightface's names, float32, on the CPU."""
    with staged(path) as (temporary,):
        torch.save(plain_state(module), temporary)


def plain_state(module: nn.Module) -> OrderedDict[str, Tensor]:
    """Return the weights of `module` under insightface's names, contiguous on the CPU, numbers as float32."""
    state = OrderedDict()
    for key, tensor in module.state_dict().items():
        kept = tensor.detach().cpu()
        # contiguous: channels_last is how this run computes, not part of the weights.
        state[plain_key(key)] = (kept.float() if kept.is_floating_point() else kept).contiguous()
    return state


def find_weights(path: Path) -> Path:
    """Return the weight file that `path` means: itself, or that of the run folder; else CheckpointError."""
    if path.is_dir():
        for name in (RUN_MODEL, RUN_WEIGHTS):
            if (path / name).is_file():
                return path / name
        raise CheckpointError(
            f"{path}: holds no {RUN_WEIGHTS} and no {RUN_MODEL}; expected a run folder or a weight file; "
            "a run writes them when it ends"
        )
    if not path.is_file():
        raise CheckpointError(
            f"{path}: not found; expected a run folder or a .safetensors, .pt or .pth file; check the path"
        )
    return path


def read_weights(file: Path) -> tuple[dict[str, Tensor], ModelMetadata | None]:
    """Return the tensors of a weight file on the CPU and what it says of itself, None where it says nothing.

    Raises CheckpointError when it cannot be read, holds other tensors than it says or numbers that are not finite, or
    was made for pixels fed in another way than here.
    """
    state, metadata = _read_raw(file)
    refuse_not_finite(state, file)
    if metadata is None:
        state = turned_to_rgb(state, place=file)
    return with_counters(state), metadata


def with_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `state` with BatchNorm's counts of batches, which no result depends on and some programs leave out."""
    norms = [key.removesuffix(_STATISTICS) for key in state if key.endswith(_STATISTICS)]
    return {**state, **{key: torch.tensor(0) for norm in norms if (key := f"{norm}{_COUNTER}") not in state}}


def refuse_not_finite(state: Mapping[str, Tensor], file: Path) -> None:
    """Raise CheckpointError when a tensor of `file` has a NaN or an infinity, naming the first."""
    broken = {key: tensor for key, tensor in state.items() if not _is_finite(tensor)}
    if broken:
        key, tensor = next(iter(broken.items()))
        num_bad = int((~torch.isfinite(tensor)).sum())
        more = f", and in {count(len(broken) - 1, 'other tensor')}" if len(broken) > 1 else ""
        raise CheckpointError(
            f"{file}: {num_bad:,} of the {count(tensor.numel(), 'number')} in {key!r} are not finite{more}; expected "
            "finite weights; take an earlier checkpoint"
        )


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())


def _read_raw(file: Path) -> tuple[dict[str, Tensor], ModelMetadata | None]:
    if file.suffix != SUFFIX:
        return read_state_dict(file), None
    tensors, texts = read_safetensors(file)
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensor; expected the weights of a backbone; take another file")
    state = {plain_key(name): tensor for name, tensor in tensors.items()}
    if KEY not in texts:
        return state, None
    metadata = ModelMetadata.from_json(texts[KEY], place=str(file))
    if weights_fingerprint(state) != metadata.fingerprint:
        raise CheckpointError(
            f"{file}: its tensors are not those that its metadata names; it was altered; copy it again"
        )
    fed, found = (COLOR_ORDER, PIXEL_MEAN, PIXEL_STD), (metadata.color, metadata.mean, metadata.std)
    if found != fed:
        raise CheckpointError(
            f"{file}: takes {found[0]} as (x - {found[1]:g}) / {found[2]:g}; expected {fed[0]} as (x - {fed[1]:g}) / "
            f"{fed[2]:g}, the one way images are fed here; convert its first layer"
        )
    return state, metadata


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


def _told(file: Path, metadata: ModelMetadata | None) -> tuple[Architecture | None, str | None]:
    """Return what says the architecture of `file`, apart from its keys: its metadata, else its run's config."""
    if metadata is not None:
        return metadata.architecture, "its metadata"
    config = file.parent / RUN_CONFIG
    if file.name not in (RUN_MODEL, RUN_WEIGHTS) or not config.is_file():
        return None, None
    try:
        found = load_config(str(config.resolve()))
        return Architecture.of(found.backbone, found.data.image_size), RUN_CONFIG
    except ConfigError as err:
        raise CheckpointError(
            f"{file}: the {RUN_CONFIG} beside it is none of ours ({err}); expected that of its run; copy the weights "
            "elsewhere"
        ) from err


def _build_fitting(
    architecture: Architecture, state: Mapping[str, Tensor], file: Path, told_by: str
) -> tuple[nn.Module, dict[str, Tensor]]:
    """Return the network, still empty, and its part of `state`, after a check that this fits."""
    place = f"{file}: {told_by}"
    try:
        module = build_empty(architecture)
    # What a network's builder raises for sizes and options that no run has written has no common class.
    except Exception as err:
        reason = str(err).partition("\n")[0]
        raise CheckpointError(f"{place} says {architecture}: {reason}; expected what a run writes") from err
    own = backbone_part(state, module.state_dict().keys(), place=file)
    misfit = find_misfit(module.state_dict(), own)
    if misfit:
        raise CheckpointError(
            f"{place} says {architecture}, which the weights do not fit: {misfit}; copy the run again"
        )
    return module, own
