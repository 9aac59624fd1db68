"""No operation of a step makes anything of the size of the logits or of the weight gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recognition.config.schema import HeadConfig
from recognition.distributed.world import World
from recognition.heads.memory import head_bytes
from recognition.heads.sharded_softmax import ShardedSoftmax

NUM_CLASSES, DIM, BATCH, BLOCK = 2048, 32, 16, 64
LARGEST = min(BATCH, DIM) * NUM_CLASSES


class Watch(TorchDispatchMode):
    """Notes every operation whose output reaches the forbidden size and is no view of the state."""

    def __init__(self, state: list[Tensor]) -> None:
        super().__init__()
        self.own = {tensor.untyped_storage().data_ptr() for tensor in state}
        self.found: list[str] = []
        self.num_operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.num_operations += 1
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage().data_ptr() not in self.own:
                elements = leaf.untyped_storage().nbytes() // leaf.element_size()
                if max(leaf.numel(), elements) >= LARGEST:
                    self.found.append(f"{func}: {tuple(leaf.shape)}")
        return out


def watched_step(**changes: Any) -> Watch:
    head = ShardedSoftmax(
        NUM_CLASSES,
        DIM,
        world=World(0, 1, 0, torch.device("cpu")),
        config=HeadConfig(block_size=BLOCK, **changes),
        seed=0,
        momentum=0.9,
        weight_decay=5e-4,
    )
    embeddings = torch.randn(BATCH, DIM, requires_grad=True)
    labels = torch.randint(0, NUM_CLASSES, (BATCH,))
    with Watch(list(head.state_rows().values())) as watch:
        head.begin_step(step=0, lr=0.1)
        head(embeddings, labels).backward()
        head.finish_step(head.refused)
    return watch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"update": "deferred"},
        {"margin_gradient": "exact", "margins": (0.9, 0.4, 0.1)},
        {"scale": 100.0},
        {"products": "bf16"},
        {"centers_format": "bf16", "momentum_format": "int8"},
        {"momentum_format": "none"},
        {"interclass_filtering_threshold": 0.3},
        {"sample_rate": 0.5},
        {"sample_rate": 0.5, "negatives": "nearest"},
        {"sub_centers": 3},
    ],
    ids=str,
)
def test_nothing_of_the_size_of_logits_or_weight_gradient(changes: dict[str, Any]) -> None:
    watch = watched_step(**changes)
    assert watch.num_operations > NUM_CLASSES // BLOCK
    assert watch.found == []


def test_the_watch_sees_what_it_should() -> None:
    assert any("mm" in line for line in watched_step(update="autograd").found)


def test_the_state_is_as_large_as_computed() -> None:
    for changes in ({}, {"centers_format": "bf16", "momentum_format": "int8"}, {"sub_centers": 2}):
        config = HeadConfig(**changes)  # type: ignore[arg-type]
        head = ShardedSoftmax(
            1001, DIM, world=World(0, 1, 0, torch.device("cpu")), config=config, seed=0, momentum=0.9, weight_decay=0.0
        )
        rows = head.state_rows()
        found = head_bytes(1001, 1, BATCH, DIM, config)
        assert found["centers"] == rows["centers"].nbytes
        assert found["momentum"] == sum(rows[name].nbytes for name in rows if name.startswith("momentum"))
