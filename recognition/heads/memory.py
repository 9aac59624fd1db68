"""Bytes the head needs, as a function of the config alone."""

from __future__ import annotations

from recognition.config.schema import HeadConfig
from recognition.distributed.shards import class_range
from recognition.heads.block_loop import rows_per_block

_BYTES = {"float32": 4, "bf16": 2, "int8": 1, "none": 0}


def head_bytes(
    num_classes: int, ranks: int, batch: int, embedding_size: int, config: HeadConfig, *, device: str = "cpu"
) -> dict[str, int]:
    """Return the bytes on rank 0, which owns the most classes, by part; `batch` is the images per rank.

    "centers" and "momentum" are the state. "norms" (one number per center) and "scores" (a number or two per class,
    only when sampling) also grow with the classes; "blocks" and "rows" do not. "gradient" is that of update autograd,
    whose optimizer keeps momentum of its own.
    """
    rows = len(class_range(num_classes, 0, ranks)) * config.sub_centers
    total_batch = batch * ranks
    block = rows_per_block(total_batch, embedding_size, config.sub_centers, device)
    if config.block_size is not None:
        block = config.block_size * config.sub_centers
    block = min(rows, block)
    uses_autograd = config.update == "autograd"
    momentum = 0 if uses_autograd else rows * embedding_size * _BYTES[config.momentum_format]
    if config.momentum_format == "int8" and not uses_autograd:
        momentum += 4 * rows
    sampled = config.sample_rate < 1
    copies = (sampled or config.centers_format != "float32") + (sampled or config.momentum_format != "float32")
    return {
        "centers": rows * embedding_size * _BYTES[config.centers_format],
        "momentum": momentum,
        "gradient": 4 * rows * embedding_size if uses_autograd else 0,
        "norms": 4 * rows,
        "scores": (4 + 4) * rows // config.sub_centers if sampled else 0,
        # Two tiles [N, n], and float copies of a block where the stored rows cannot be changed in place.
        "blocks": 4 * block * (2 * total_batch + copies * embedding_size),
        # Embeddings gathered, scaled and weighted, their gradient, and the own centers in float64.
        "rows": 4 * total_batch * embedding_size * (4 + 2 * 2 * config.sub_centers),
    }
