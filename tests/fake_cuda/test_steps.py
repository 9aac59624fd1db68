"""Training steps on a CUDA device that computes nothing: where tensors are, what waits, what travels, what is launched.

Needs g++ and the torch the device was written for; with CI=true a skip is a failure.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.fake_cuda.process import run_on_device

ROOT = Path(__file__).parents[2]
JPEG = ["augment.preset=arcface_dali", "augment.jpeg=0.5", "augment.mask=0.1", "augment.occlusion=0.1"]
SMALL_STATE = ["head.centers_format=bf16", "head.momentum_format=int8"]
CASES: dict[str, dict[str, Any]] = {
    "full": {},
    "sampled": {"overrides": ["head.sample_rate=0.1"]},
    "sampled, own alone": {"overrides": ["head.sample_rate=0"]},
    "sampled, nearest": {"overrides": ["head.sample_rate=0.1", "head.negatives=nearest"]},
    "sampled, bf16 and int8": {"overrides": ["head.sample_rate=0.1", *SMALL_STATE]},
    "sampled, coasting": {"overrides": ["head.sample_rate=0.1", "head.unsampled=coast"]},
    "sampled, coasting, small": {"overrides": ["head.sample_rate=0.1", "head.unsampled=coast", *SMALL_STATE]},
    "sampled, rank 0 of 8": {"size": 8, "overrides": ["head.sample_rate=0.1"]},
    "augmentation": {"overrides": JPEG},
    "deferred": {"overrides": ["head.update=deferred"]},
    "autograd": {"overrides": ["head.update=autograd"]},
    "bf16 and int8": {"overrides": SMALL_STATE},
    "accumulation": {"overrides": ["train.gradient_accumulation=3"]},
    "accumulation, rank 0 of 8": {"size": 8, "overrides": ["train.gradient_accumulation=2"]},
    "fp16": {"overrides": ["train.precision=fp16"]},
    "adamw": {"overrides": ["optim.optimizer=adamw"]},
    "adamw, sampled": {"overrides": ["optim.optimizer=adamw", "head.sample_rate=0.1"]},
    "adamw, bf16 and int8": {"overrides": ["optim.optimizer=adamw", *SMALL_STATE]},
    "adamw, bf16 moments, rank 0 of 8": {
        "size": 8,
        "overrides": ["optim.optimizer=adamw", "head.momentum_format=bf16", "train.precision=fp16"],
    },
    "adamw of the centers alone": {"overrides": ["head.optimizer=adamw", "train.gradient_accumulation=2"]},
    "bf16 products": {"overrides": ["head.products=bf16"]},
    "compressed, rank 0 of 8": {"size": 8, "overrides": ["train.gradient_compression=fp16"]},
    "sync_bn, rank 0 of 8": {"size": 8, "overrides": ["backbone.sync_bn=true"]},
    "average of the weights": {
        "overrides": ["train.ema=0.999", "optim.backbone_lr_factor=0.5", "optim.no_decay=['*.bias']"]
    },
    "overlap": {"overrides": ["head.overlap=true"]},
    "overlap, adamw": {"overrides": ["head.overlap=true", "optim.optimizer=adamw", *SMALL_STATE]},
    "overlap, coasting": {"overrides": ["head.overlap=true", "head.sample_rate=0.1", "head.unsampled=coast"]},
    "overlap, rank 0 of 8": {"size": 8, "overrides": ["head.overlap=true"]},
    "overlap, accumulation, rank 0 of 8": {
        "size": 8,
        "overrides": ["head.overlap=true", "train.gradient_accumulation=2"],
    },
    "r50": {"overrides": ["backbone.network=r50", "backbone.embedding_size=512"]},
    "rank 0 of 8": {"size": 8},
    "rank 7 of 8": {"size": 8, "rank": 7},
    "kernels": {"kernels": True},
    "kernels, sampled": {"kernels": True, "overrides": ["head.sample_rate=0.1"]},
    "kernels, bf16 and int8": {"kernels": True, "overrides": SMALL_STATE},
    "kernels, rank 7 of 8": {"kernels": True, "size": 8, "rank": 7},
    "overlap, kernels": {"kernels": True, "overrides": ["head.overlap=true"]},
    "kernels, r50": {"kernels": True, "overrides": ["backbone.network=r50", "backbone.embedding_size=512"]},
    "rank 0 of 64": {"size": 64},
    "rank 63 of 64": {"size": 64, "rank": 63},
}

pytestmark = pytest.mark.slow


def run_steps(*cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Run cases in one process."""
    return run_on_device("steps", *map(json.dumps, cases))


@pytest.fixture(scope="module")
def seen() -> dict[str, dict[str, Any]]:
    return dict(zip(CASES, run_steps(*CASES.values()), strict=True))


@pytest.mark.parametrize("name", CASES)
def test_a_step_on_cuda_neither_waits_nor_crosses_the_bus(name: str, seen: dict[str, dict[str, Any]]) -> None:
    step = seen[name]
    # A wait for a value, and operands on two devices, raise where they happen.
    assert "error" not in step, step["error"] + step["traceback"]
    assert step["crossings"] == []
    assert step["devices"] == ["cuda:0"]
    print(f"{name}: {step['launches']} launches a step; most {step['most']}")


@pytest.mark.parametrize(("size", "ranks"), [(8, (0, 7)), (64, (0, 63))])
def test_the_collectives_of_a_step_are_those_of_the_docs(
    size: int, ranks: tuple[int, int], seen: dict[str, dict[str, Any]]
) -> None:
    first, last = (seen[f"rank {rank} of {size}"] for rank in ranks)
    assert first["collectives"] == last["collectives"]
    stated = list(stated_collectives(size=size, batch=4, embedding=128))
    # DDP's, of the backbone's gradient, is before the optimizer's.
    stated.insert(-1, ("allreduce", "float32", 4 * first["parameters"]))
    found = [received(*each.split(), size) for each in first["collectives"]]
    assert found == stated


def test_the_backbones_gradient_travels_once_a_step(seen: dict[str, dict[str, Any]]) -> None:
    step = seen["accumulation, rank 0 of 8"]
    assert step["collectives"].count(f"allreduce float32 {step['parameters']}") == 1
    assert sum(each.startswith("reduce_scatter") for each in step["collectives"]) == 2


def test_pass_2_beside_the_backward_is_on_a_stream_that_waits_and_is_waited_for(
    seen: dict[str, dict[str, Any]],
) -> None:
    for name, step in seen.items():
        overlaps = name.startswith("overlap")
        assert step["waits"] == (["side after default", "default after side"] if overlaps else []), name
        assert (step["beside"] > 0) == overlaps, name
        assert step["beside"] < step["launches"] / 2, name  # and the backbone's are not


def test_overlap_adds_a_flag_to_what_travels(seen: dict[str, dict[str, Any]]) -> None:
    plain, step = seen["rank 0 of 8"], seen["overlap, rank 0 of 8"]
    scatter = next(i for i, each in enumerate(plain["collectives"]) if each.startswith("reduce_scatter"))
    expected = list(plain["collectives"])
    expected.insert(scatter, "allreduce float32 1")
    assert step["collectives"] == expected  # before anything of the backbone


def test_a_compressed_gradient_travels_in_16_bits(seen: dict[str, dict[str, Any]]) -> None:
    step, plain = seen["compressed, rank 0 of 8"], seen["rank 0 of 8"]
    whole, half = (f"allreduce {kind} {step['parameters']}" for kind in ("float32", "float16"))
    assert step["collectives"] == [half if each == whole else each for each in plain["collectives"]]
    assert whole in plain["collectives"]


def test_the_launches_of_a_step_do_not_grow_with_the_layers_buffers(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["r50"]["launches"] <= 1150  # 2,085 when each of BatchNorm's buffers was kept by itself


def test_the_heads_kernels_are_two_in_pass_1_and_one_in_pass_2(seen: dict[str, dict[str, Any]]) -> None:
    for name in ("kernels", "kernels, sampled", "kernels, bf16 and int8", "kernels, rank 7 of 8"):
        assert seen[name]["kernels"] == ["logits", "descend"], name  # and cuBLAS between them
    assert seen["kernels, r50"]["launches"] < seen["r50"]["launches"]
    print({name: step["launches"] for name, step in seen.items()})


def test_the_sample_on_cuda_is_what_the_rate_says(seen: dict[str, dict[str, Any]]) -> None:
    assert seen["full"]["sampled"] is None
    assert seen["sampled"]["sampled"] == 200  # a tenth of 2,000
    assert seen["sampled, own alone"]["sampled"] == 4  # the batch's own
    assert (
        seen["sampled, rank 0 of 8"]["sampled"] == 32
    )  # its 250 classes hold all 32 labels of the batch; a tenth of them were 25


def stated_collectives(*, size: int, batch: int, embedding: int) -> Any:
    """Yield (kind, dtype, bytes a rank receives) of the table in docs/distributed.md, less what is not of this run."""
    text = (ROOT / "docs" / "distributed.md").read_text(encoding="utf-8")
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] not in ("forward", "backward", "step") or "between the hosts" in cells[1] or "only if" in cells[1]:
            continue
        kind = re.sub("-", "", cells[2].split()[0]) if "scatter" not in cells[2] else "reduce_scatter"
        dtype = next((word for word in ("float32", "float64", "int64") if word in cells[1]), "float32")
        formula = re.sub(r"(?<=[\w)]) (?=[\w(])", " * ", cells[3].removesuffix(" with NCCL"))
        yield kind, dtype, eval(formula, {"D": embedding, "N": batch * size, "B": batch, "W": size})


def received(kind: str, dtype: str, numel: str, size: int) -> tuple[str, str, int]:
    """Return a collective with the bytes that a rank receives of it, from what a rank gives."""
    num_bytes = int(numel) * int(re.sub(r"\D", "", dtype)) // 8
    if kind == "allgather":
        num_bytes *= size - 1
    elif kind == "reduce_scatter":
        num_bytes = num_bytes * (size - 1) // size
    return kind, dtype, num_bytes
