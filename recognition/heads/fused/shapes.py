"""How large the kernels' tiles are, by architecture: what fits its registers and shared memory without a spill.

docs/kernels.md has the table of what each takes. None was chosen by a measurement: that takes a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

EMBEDDING_SIZES = (128, 256, 512, 768)
"""What the kernels are made for."""
CHUNK_BYTES = 24 << 20
"""Of E r in bf16, which stays in an L2 of 40 MB and more between the kernel that writes it and the product after."""


@dataclass(frozen=True)
class Tile:
    """A tile of logits: rows x classes, its sum over the embedding `depth` at a time."""

    rows: int
    classes: int
    depth: int
    warps: int
    stages: int


@dataclass(frozen=True)
class OnChip:
    """Rows x classes of a step of a loop whose sums, as wide as an embedding, stay in registers."""

    rows: int
    classes: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Shapes:
    """The tiles of one architecture, for one embedding size."""

    logits: Tile
    sums: OnChip
    """Of pass 1 on chip: a program keeps `rows` and walks the classes."""
    descend: OnChip
    """Of pass 2: a program keeps `classes` and walks the rows."""
    descend_small: OnChip
    """Of pass 2 for int8 momentum, whose scale needs a second look at the row, for float32 momentum of bf16 centers,
    and for rows that are not neighbors."""
    adamw: OnChip
    """As `descend`, with the step of AdamW, which has more of each row in registers."""
    adamw_small: OnChip
    """As `descend_small`, with the step of AdamW."""

    def of_pass_2(self, *, is_adamw: bool, centers: torch.dtype, momentum: torch.dtype | None, sampled: bool) -> OnChip:
        """Return the tile of pass 2 for state that is stored so; `momentum`: that of AdamW's first moment too."""
        is_mixed = centers == torch.bfloat16 and momentum == torch.float32 and not is_adamw
        is_small = sampled or momentum == torch.int8 or is_mixed
        if is_adamw:
            return self.adamw_small if is_small else self.adamw
        return self.descend_small if is_small else self.descend


_NARROW = OnChip(32, 32, 8, 1)
_SHORT = OnChip(16, 32, 8, 1)


def shapes_for(capability: tuple[int, int], embedding_size: int) -> Shapes:
    """Return the tiles for a GPU of `capability` such as (9, 0)."""
    fits = embedding_size <= 512
    few = _NARROW if fits else OnChip(64, 16, 8, 1)
    if (10, 0) <= capability < (12, 0):  # 227 KB of shared memory; its own instruction keeps sums elsewhere
        # With 64 rows on chip, Triton 3.7.1 makes a kernel without a body.
        return Shapes(Tile(128, 128, 64, 8, 3), _NARROW, _NARROW, _SHORT, _NARROW, few)
    if capability == (9, 0):  # wgmma, 227 KB
        wide = OnChip(32, 64, 8, 2) if fits else _NARROW
        sums = OnChip(64, 32, 8, 2) if fits else _NARROW
        # A sample with 256 numbers in int8 spills with 32 rows.
        small = OnChip(64, 32, 8, 1) if embedding_size == 256 else few
        of_sgd = _SHORT if embedding_size in (256, 768) else _NARROW
        return Shapes(Tile(128, 256, 64, 8, 3), sums, wide, of_sgd, _NARROW, small)
    if capability == (8, 0):  # 163 KB
        wide = OnChip(64, 32, 8, 2) if fits else _NARROW
        of_adamw = OnChip(64, 32, 8, 1) if embedding_size == 256 else wide
        return Shapes(Tile(128, 128, 32, 8, 3), _NARROW, wide, wide, of_adamw, wide if fits else few)
    # 99 KB: sm_86, sm_89, sm_120, and whatever is not known here
    narrow = _NARROW if fits else OnChip(16, 32, 8, 1)
    sums, few = (narrow, narrow) if fits else (OnChip(32, 16, 8, 1), OnChip(32, 16, 8, 1))
    return Shapes(Tile(128, 128, 32, 8, 2), sums, narrow, _SHORT if embedding_size == 256 else narrow, narrow, few)
