"""What a step does on a device that computes nothing: launches, copies over the bus, waits, collectives."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from tests.fake_cuda import streams

# Operations that launch nothing: views, and questions about a tensor.
_FREE = (
    "prim.device",
    "aten.lift_fresh",
    "aten.detach",
    "aten.alias",
    "aten._unsafe_view",
    "aten.empty",
    "aten.new_empty",
)
_KINDS = ("allgather", "reduce_scatter", "allreduce", "broadcast", "barrier")


@dataclass(frozen=True)
class Collective:
    """What a rank gives to a collective."""

    name: str
    dtype: str
    numel: int

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} {self.numel}"


@dataclass
class Seen:
    """What happened on the device."""

    launches: Counter[str] = field(default_factory=Counter)
    num_bytes: int = 0
    """Of the operands of what was launched, each number once where it is spread over a dimension."""
    crossings: list[str] = field(default_factory=list)
    """Copies between host and device, by operation and direction."""
    waits: list[str] = field(default_factory=list)
    """Those of them for which the host waits: none between page-locked memory and the device that says it need not."""
    collectives: list[Collective] = field(default_factory=list)
    beside: Counter[str] = field(default_factory=Counter)
    """Those of `launches` that are on another stream than the default one."""

    @property
    def num_launches(self) -> int:
        return sum(self.launches.values())


class Watch(TorchDispatchMode):
    """Notes every operation within; entered after FakeTensorMode. A wait for a value raises there by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = Seen()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        num_before = len(self.seen.crossings)
        name = str(func).rpartition(".")[0]
        given = _tensors((args, kwargs))
        if name.startswith("c10d."):
            self._note_collective(name, args)
        else:
            self._note_operation(func, name, given, _tensors(result))
            self._note_waits(name, args, kwargs or {}, num_before)
        return result

    def _note_collective(self, name: str, args: Any) -> None:
        given = _tensors(args[1] if "base" in name or "allgather" in name or "reduce_scatter" in name else args[0])
        kind = next((kind for kind in _KINDS if kind in name), name)
        for tensor in given[:1]:
            self.seen.collectives.append(Collective(kind, str(tensor.dtype).removeprefix("torch."), tensor.numel()))

    def _note_operation(self, func: Any, name: str, given: list[Tensor], made: list[Tensor]) -> None:
        on_host = [t for t in given if t.device.type == "cpu"]
        on_device = [t for t in (*given, *made) if t.device.type == "cuda"]
        if on_host and on_device:
            self.seen.crossings.append(f"{name} of {[list(t.shape) for t in on_host]}")
        elif any(t.device.type == "cuda" for t in given) and any(t.device.type == "cpu" for t in made):
            self.seen.crossings.append(f"{name} to the host")
        if on_device and not func.is_view and not name.startswith(_FREE):
            self.seen.launches[name] += 1
            self.seen.num_bytes += sum(map(_num_bytes, on_device))
            if streams.current().name != "default":
                self.seen.beside[name] += 1

    def _note_waits(self, name: str, args: Any, kwargs: dict[str, Any], num_before: int) -> None:
        is_asynchronous = kwargs.get("non_blocking") or (name == "aten.copy_" and True in args[2:])
        if not is_asynchronous:
            self.seen.waits += self.seen.crossings[num_before:]


def _num_bytes(tensor: Tensor) -> int:
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride)
    return math.prod(sizes) * tensor.element_size()


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_flatten(values)[0] if isinstance(value, torch.Tensor)]


class FakeMode(FakeTensorMode):
    """FakeTensorMode on a machine where torch.cuda says that there is a GPU, and none can compute."""

    @property
    def avoid_device_init(self) -> bool:
        """Whether values that the host knows are forgotten on their way to the device, where nothing can hold them."""
        return True
