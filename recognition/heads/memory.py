"""Bytes the head needs, as a function of its arguments alone."""

from __future__ import annotations

from recognition.distributed.shards import class_range
from recognition.heads.block_loop import rows_per_block
from recognition.heads.fused.shapes import CHUNK_BYTES, EMBEDDING_SIZES
from recognition.heads.state import CentersFormat, MomentumFormat, OptimizerKind

_BYTES = {"float32": 4, "bf16": 2, "int8": 1, "none": 0}


def head_bytes(
    num_classes: int,
    ranks: int,
    batch: int,
    embedding_size: int,
    *,
    has_bias: bool = False,
    update: str = "fused",
    sub_centers: int = 1,
    sample_rate: float = 1.0,
    coasts: bool = False,
    centers_format: CentersFormat = "float32",
    momentum_format: MomentumFormat = "float32",
    optimizer: OptimizerKind = "sgd",
    block_size: int | None = None,
    forwards: int = 1,
    device: str = "cpu",
    products: str = "float32",
) -> dict[str, int]:
    """Return the bytes on rank 0, which owns the most classes, by part.

    `batch` is the images per rank of a forward, of which a step has `forwards`. "centers" and "momentum" (both moments
    under AdamW) are the state. "norms" (a number per center, two where it `coasts`) and "scores" (one or two per class,
    only when sampling) also grow with the classes, and so does "shadow", the bf16 copy that kernels with products
    inside keep of float32 centers; "blocks" and "rows" do not. "gradient" is that of update autograd,
    whose optimizer keeps its own momentum.
    """
    rows = len(class_range(num_classes, 0, ranks)) * sub_centers
    embedding_size += has_bias
    total_batch = batch * ranks * (1 if update == "autograd" else forwards)
    block = rows_per_block(total_batch, embedding_size, sub_centers, device)
    if block_size is not None:
        block = block_size * sub_centers
    block = min(rows, block)
    uses_autograd = update == "autograd"
    uses_adamw = optimizer == "adamw" and not uses_autograd
    num_moments = 0 if uses_autograd else 2 if uses_adamw else 1
    momentum = num_moments * rows * (embedding_size * _BYTES[momentum_format] + 4 * (momentum_format == "int8"))
    momentum += 4 * rows * uses_adamw  # how often each was moved
    sampled = sample_rate < 1
    copies = (sampled or centers_format != "float32") + num_moments * (sampled or momentum_format != "float32")
    copies += coasts and not uses_autograd  # one of the two that a row is computed from
    copies += uses_adamw  # the block's gradient, which SGD adds to its momentum at once
    has_kernels = device == "cuda" and products == "bf16" and sub_centers == 1 and embedding_size in EMBEDDING_SIZES
    if has_kernels and not uses_autograd:
        blocks = min(CHUNK_BYTES, 2 * block * total_batch)
    else:  # two tiles [N, n], and float copies of a block where the stored rows cannot be changed in place
        blocks = 4 * block * (2 * total_batch + copies * embedding_size)
    return {
        "centers": rows * embedding_size * _BYTES[centers_format],
        "momentum": momentum,
        "gradient": 4 * rows * embedding_size if uses_autograd else 0,
        "norms": 4 * rows * (1 + (coasts and not uses_autograd)),
        "scores": (4 + 4) * rows // sub_centers if sampled else 0,
        "shadow": 2 * rows * embedding_size if has_kernels and centers_format == "float32" else 0,
        "blocks": blocks,
        # Embeddings gathered, scaled and weighted, their gradient, and the own centers in float64.
        "rows": 4 * total_batch * embedding_size * (4 + 2 * 2 * sub_centers),
    }
