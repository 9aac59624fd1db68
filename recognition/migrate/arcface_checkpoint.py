"""Read the checkpoint of an arcface_torch run: one checkpoint_gpu_<rank>.pt for every GPU it ran on.

Each holds the whole backbone, that rank's class centers, and the state of one optimizer over both. The files are
opened as tensors and plain containers, never as code, and mapped: a row is read from the disk when it is used.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recognition.backbones.matching import check_fit
from recognition.backbones.torch_file import is_plain
from recognition.backbones.weights import plain_key, read_torch_file, refuse_not_finite, with_counters
from recognition.config.schema import Config
from recognition.distributed.shards import class_range
from recognition.errors import CheckpointError
from recognition.work.inputs import require_plain

_NAME = re.compile(r"checkpoint_gpu_(\d+)\.pt")
_STATE = {"sgd": ("momentum_buffer",), "adamw": ("step", "exp_avg", "exp_avg_sq")}


@dataclass(frozen=True)
class ArcfaceShard:
    """What one rank of arcface_torch saved."""

    path: Path
    epoch: int
    """Epochs completed."""
    global_step: int
    """Micro-batches taken."""
    backbone: Mapping[str, Tensor]
    backbone_state: Mapping[str, Mapping[str, Tensor]]
    """Optimizer tensors by kind (momentum_buffer) and parameter name."""
    centers: Tensor
    """[classes of this rank, embedding size]"""
    centers_state: Mapping[str, Tensor] | None
    """Optimizer tensors of the centers by kind; None when the file holds none for all of them."""


def find_shards(folder: Path) -> list[Path]:
    """Return the shards of `folder` by rank. Raises CheckpointError when there is none or one is missing between."""
    found = {int(match[1]): path for path in folder.glob("*.pt") if (match := _NAME.fullmatch(path.name))}
    if not found:
        raise CheckpointError(
            f"{folder}: holds no checkpoint_gpu_0.pt; expected the output folder of an arcface_torch run that had "
            "save_all_states on; start from its model.pt with init_from instead"
        )
    for rank in range(max(found) + 1):
        if rank not in found:
            raise CheckpointError(
                f"{folder / f'checkpoint_gpu_{rank}.pt'}: not found, yet checkpoint_gpu_{max(found)}.pt is there; "
                "expected one file for every GPU of the run; copy it from the node that wrote it"
            )
    return [found[rank] for rank in range(len(found))]


def check_bytes(path: Path) -> None:
    """Raise CheckpointError when a byte of `path` changed since it was written. Reads the whole file.

    torch's reader does not look at the checksums that its writer stores.
    """
    require_plain(path, CheckpointError)
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (OSError, zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as err:
        raise CheckpointError(
            f"{path}: cannot be read as a checkpoint ({err}); expected a whole checkpoint_gpu_<rank>.pt of torch 1.12 "
            "or later; copy it again"
        ) from err
    if damaged is not None:
        raise CheckpointError(f"{path}: the checksum of its entry {damaged!r} differs; copy the file again")


def read_shard(path: Path, network: nn.Module, config: Config) -> ArcfaceShard:
    """Open one shard; `network` (on meta is enough) and `config` say what it must fit, else CheckpointError."""
    content = read_torch_file(path, expected="a checkpoint", written="a checkpoint_gpu_<rank>.pt", mmap=True)
    stored = _tensors(path, content, "state_dict_backbone")
    backbone = with_counters({plain_key(key): tensor for key, tensor in stored.items()})
    check_fit(network, backbone, place=path)
    fc = _tensors(path, content, "state_dict_softmax_fc")
    centers = fc.get("weight")
    if centers is None or centers.ndim != 2 or centers.shape[1] != config.backbone.embedding_size:
        found = "no 'weight'" if centers is None else f"'weight' {list(centers.shape)}"
        raise CheckpointError(
            f"{path}: state_dict_softmax_fc has {found}; expected [classes of the rank, "
            f"{config.backbone.embedding_size}]; give the config of this very run"
        )
    by_index = _OptimizerState(path, _entry(path, content, "state_optimizer", Mapping), config.optim.optimizer)
    parameters = dict(network.named_parameters())
    shard = ArcfaceShard(
        path=path,
        epoch=_count(path, content, "epoch"),
        global_step=_count(path, content, "global_step"),
        backbone=backbone,
        # An optimizer numbers its parameters in the module's order, which the state dict keeps.
        backbone_state=by_index.of_backbone({key: parameters[key] for key in backbone if key in parameters}),
        centers=centers,
        centers_state=by_index.of_centers(centers),
    )
    # Those of the centers are looked at block by block, as they are converted.
    refuse_not_finite(backbone, path)
    for kind, tensors in shard.backbone_state.items():
        refuse_not_finite({f"{kind} of {name}": tensor for name, tensor in tensors.items()}, path)
    return shard


def check_shards(shards: Sequence[ArcfaceShard], num_classes: int | None) -> int:
    """Return the number of classes of a whole set. Raises CheckpointError when the shards are of different saves, do
    not split the classes as arcface_torch does, or are not `num_classes` together."""
    first = shards[0]
    for shard in shards:
        if (shard.epoch, shard.global_step) != (first.epoch, first.global_step):
            raise CheckpointError(
                f"{shard.path}: is of step {shard.global_step}, {first.path.name} at step {first.global_step}; "
                "expected one save; the run was stopped while it wrote, and its older checkpoint is overwritten: "
                "start from its model.pt with init_from"
            )
    total = sum(len(shard.centers) for shard in shards)
    if num_classes is not None and total != num_classes:
        raise CheckpointError(
            f"{first.path.parent}: its {len(shards)} shards hold {total} classes; expected {num_classes} "
            "(data.num_classes); copy the shards of every rank, or give the config of this very run"
        )
    for rank, shard in enumerate(shards):
        expected = len(class_range(total, rank, len(shards)))
        if len(shard.centers) != expected:
            raise CheckpointError(
                f"{shard.path}: holds {len(shard.centers)} classes; expected {expected} of {total} on rank {rank} of "
                f"{len(shards)}; the shards are of different runs, or the last ones are missing"
            )
    return total


class _OptimizerState:
    """The optimizer's state dict: tensors under the running numbers of parameters, the centers' number last."""

    def __init__(self, path: Path, content: Mapping[str, Any], optimizer: str) -> None:
        self._path = path
        self._kinds = _STATE[optimizer]
        self._optimizer = optimizer
        self._state = _entry(path, content, "state", Mapping)
        groups = [_entry(path, group, "params", list) for group in _entry(path, content, "param_groups", list)]
        if len(groups) != 2 or len(groups[1]) != 1:
            raise CheckpointError(
                f"{path}: its optimizer has groups of {[len(numbers) for numbers in groups]} parameters; expected the "
                "backbone's and one of centers; only train_v2.py's checkpoints can be imported"
            )
        self._backbone, (self._centers,) = groups

    def of_backbone(self, parameters: Mapping[str, nn.Parameter]) -> dict[str, dict[str, Tensor]]:
        """Return tensors by kind and name for those of `parameters` that are trained; all stand in their order."""
        if len(self._backbone) != len(parameters):
            raise CheckpointError(
                f"{self._path}: its optimizer drives {len(self._backbone)} parameters of a backbone of "
                f"{len(parameters)}; give the config of this very run"
            )
        found: dict[str, dict[str, Tensor]] = {kind: {} for kind in self._kinds}
        for number, (name, parameter) in zip(self._backbone, parameters.items()):
            if not parameter.requires_grad:
                continue
            for kind in self._kinds:
                tensor = self._tensor(number, kind)
                shape = parameter.shape if kind != "step" else torch.Size()
                if tensor is None or tensor.shape != shape:
                    held = ", ".join(map(str, self._of(number))) or "nothing"
                    raise CheckpointError(
                        f"{self._path}: its optimizer holds {held} for {name!r}; expected {kind} {list(shape)}; "
                        f"set optim.optimizer to the run's own, it is {self._optimizer}"
                    )
                found[kind][name] = tensor
        return found

    def of_centers(self, centers: Tensor) -> dict[str, Tensor] | None:
        """Return tensors by kind, or None: older sampling kept them for the last sample alone, and dropped them too."""
        found = {kind: self._tensor(self._centers, kind) for kind in self._kinds}
        fits = all(
            tensor is not None and tensor.shape == (centers.shape if kind != "step" else torch.Size())
            for kind, tensor in found.items()
        )
        return {kind: tensor for kind, tensor in found.items() if tensor is not None} if fits else None

    def _of(self, number: Any) -> Mapping[str, Any]:
        entry = self._state.get(number) if isinstance(number, int) else None
        return entry if isinstance(entry, Mapping) else {}

    def _tensor(self, number: Any, kind: str) -> Tensor | None:
        value = self._of(number).get(kind)
        if kind == "step" and isinstance(value, int):
            value = torch.tensor(float(value))  # as torch before 1.12 kept it
        return value if is_plain(value) else None


def _tensors(path: Path, content: Any, key: str) -> dict[str, Tensor]:
    found = _entry(path, content, key, Mapping)
    for name, tensor in found.items():
        if not isinstance(name, str) or not is_plain(tensor):
            named = repr(name) if isinstance(name, str) else f"a {type(name).__name__}"
            raise CheckpointError(f"{path}: {key}[{named}] is no plain tensor; expected torch.save's file")
    return dict(found)


def _entry(path: Path, content: Any, key: str, kind: type) -> Any:
    value = content.get(key) if isinstance(content, Mapping) else None
    if not isinstance(value, kind):
        raise CheckpointError(
            f"{path}: {key!r} is missing or no {kind.__name__.lower()}; expected arcface_torch's "
            "checkpoint_gpu_<rank>.pt"
        )
    return value


def _count(path: Path, content: Any, key: str) -> int:
    value: int = _entry(path, content, key, int)
    if isinstance(value, bool) or not 0 <= value < 2**53:
        shown = value if abs(value) < 2**64 else "huge"
        raise CheckpointError(f"{path}: {key!r} is {shown}; expected a count")
    return value
