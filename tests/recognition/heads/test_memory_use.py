"""No operation of a step makes anything of the size of the logits or of the weight gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from recognition.heads.by_class import ByClass
from recognition.heads.margins import MARGINS, AdaFace, CombinedMargin, CurricularFace, Softmax
from recognition.heads.memory import head_bytes
from tests.helpers.heads import make_trained
from tests.helpers.loss_cases import VARIANTS

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


def watched_step(backwards: int = 1, **changes: Any) -> Watch:
    head, optimizer = make_trained(NUM_CLASSES, DIM, block_size=BLOCK, **changes)
    embeddings = torch.randn(BATCH, DIM, requires_grad=True)
    labels = torch.randint(0, NUM_CLASSES, (BATCH,))
    with Watch(list(head.state_rows().values())) as watch:
        for _ in range(backwards):
            head(embeddings, labels).backward()
        optimizer.step()
    return watch


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"margin": CombinedMargin(0.9, 0.4, 0.1, "exact")},
        {"margin": AdaFace()},
        {"margin": CurricularFace()},
        {"scale": 100.0},
        {"products": "bf16"},
        {"centers_format": "bf16", "momentum_format": "int8"},
        {"momentum_format": "none"},
        {"interclass_filtering_threshold": 0.3},
        {"sample_rate": 0.5},
        {"sample_rate": 0.5, "backwards": 2},
        {"sample_rate": 0.5, "unsampled": "coast"},
        {"sample_rate": 0.5, "sampling_correction": "logq", "backwards": 2},
        {"mode": "device", "centers_format": "bf16"},
        {"sample_rate": 0.5, "negatives": "nearest"},
        {"sub_centers": 3},
        {"kind": "adamw"},
        {"kind": "adamw", "centers_format": "bf16", "momentum_format": "int8"},
        {"kind": "adamw", "momentum_format": "bf16"},
        {"kind": "adamw", "sample_rate": 0.5, "backwards": 2},
        {"kind": "adamw", "mode": "device", "momentum_format": "int8"},
        {"kind": "adamw", "sub_centers": 3},
    ],
    ids=str,
)
def test_nothing_of_the_size_of_logits_or_weight_gradient(changes: dict[str, Any]) -> None:
    watch = watched_step(**changes)
    assert watch.num_operations > NUM_CLASSES // BLOCK
    assert watch.found == []


@pytest.mark.parametrize("number", range(len(VARIANTS)), ids=lambda number: f"{VARIANTS[number][:2]}")
def test_no_loss_of_the_registry_makes_anything_of_that_size(number: int) -> None:
    name, settings, scale = VARIANTS[number]
    smoothing = 0.1 if MARGINS[name].sums == "softmax" else 0.0
    sizes = torch.arange(NUM_CLASSES) % 5 + 1
    margin = MARGINS[name](**settings)
    watch = watched_step(margin=margin, scale=scale, by_class=ByClass(sizes), label_smoothing=smoothing)
    assert watch.num_operations > NUM_CLASSES // BLOCK
    assert watch.found == []


def test_the_watch_sees_what_it_should() -> None:
    assert any("mm" in line for line in watched_step(update="autograd").found)


def test_rows_that_coast_take_a_number_more() -> None:
    head, _ = make_trained(1001, DIM, sample_rate=0.5, unsampled="coast")
    more, less = (head_bytes(1001, 1, BATCH, DIM, coasts=coasts) for coasts in (True, False))
    assert more["norms"] - less["norms"] == head.state_rows()["reached"].nbytes


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"centers_format": "bf16", "momentum_format": "int8"},
        {"momentum_format": "bf16", "sub_centers": 2},
        {"has_bias": True},
    ],
    ids=str,
)
def test_the_state_is_as_large_as_computed(changes: dict[str, Any], kind: Any) -> None:
    made = {"margin": Softmax()} if changes.get("has_bias") else changes
    head, _ = make_trained(1001, DIM, kind=kind, **made)
    rows = head.state_rows()
    found = head_bytes(1001, 1, BATCH, DIM, optimizer=kind, **changes)
    assert found["centers"] == rows["centers"].nbytes
    assert found["momentum"] == sum(rows[name].nbytes for name in rows if name != "centers")


def test_a_gpu_keeps_a_kilobyte_more_of_a_float32_center_and_a_smaller_tile() -> None:
    sizes = {"num_classes": 1_250_000, "ranks": 1, "batch": 1024, "embedding_size": 512, "device": "cuda"}
    before, after = (head_bytes(**sizes, products=kind) for kind in ("float32", "bf16"))
    assert after["shadow"] == 1024 * 1_250_000
    assert before["shadow"] == 0
    assert head_bytes(**sizes, products="bf16", centers_format="bf16")["shadow"] == 0
    assert after["blocks"] <= 24 << 20 < before["blocks"]
    assert sum(after.values()) - sum(before.values()) <= 1024 * 1_250_000
    assert head_bytes(**sizes, products="bf16", optimizer="adamw")["blocks"] == after["blocks"]
