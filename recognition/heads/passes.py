"""What a forward leaves for its backward and for pass 2, and how several of them become one step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recognition.heads.sampling import Active, Targets
from recognition.heads.tallies import Descent, Part


@dataclass
class Pass:
    """A measured forward. Rows are those of the global batch."""

    x_ND: Tensor
    local_N: Tensor
    """Class ids less this rank's first."""
    weight_N: Tensor
    """a of the block loop, before what backward is given."""
    target_value_N: Tensor
    row_shift_N: Tensor | None
    even_N: Tensor | None
    radial_N: Tensor | None
    active: Active
    part: Part
    is_broken: Tensor
    """0-dim bool: something that all ranks share is not finite."""
    version: int
    """Of the centers, which must not have moved when backward comes."""
    scalar_gradient: Tensor | None = None
    """d loss / d b, where the margin has one (0-dim)."""
    factor: Tensor | None = None
    """What backward was given, summed over its calls (0-dim); None before the first."""

    @property
    def given(self) -> Tensor:
        """What backward was given."""
        assert self.factor is not None, "a pass takes part in a step once its backward was called"
        return self.factor


def join(passes: Sequence[Pass], factor: Tensor, *, on_host: bool) -> Descent:
    """Return the rows of `passes` as those of one step, each weighted by what its backward was given times `factor`.

    Classes take part that any of the forwards sampled; for those that did not, they count nothing.
    """
    active = passes[0].active
    is_mixed = len(passes) > 1 and active.sample is not None
    if is_mixed:
        active = replace(active, weight=None, sample=torch.cat([_sample(each) for each in passes]).unique())
    parts, start = [], 0
    for each in passes:
        rows = slice(start, start + len(each.x_ND))
        member, weight = None, each.active.weight
        if is_mixed and active.sample is not None:
            member = torch.isin(active.sample, _sample(each))
            if weight is not None:
                place = torch.searchsorted(active.sample, _sample(each))
                weight = torch.ones_like(member, dtype=weight.dtype).index_copy_(0, place, weight)
        parts.append(replace(each.part, rows=rows, member=member, weight=weight))
        start = rows.stop
    local_N = torch.cat([each.local_N for each in passes])
    return Descent(
        x_ND=torch.cat([each.x_ND for each in passes]) if len(passes) > 1 else passes[0].x_ND,
        weight_N=torch.cat([each.weight_N * (each.given * factor) for each in passes]),
        target_value_N=torch.cat([each.target_value_N for each in passes]),
        row_shift_N=_cat([each.row_shift_N for each in passes]),
        even_N=_cat([each.even_N for each in passes]),
        radial_N=_cat([each.radial_N for each in passes]),
        scale=_scales(passes),
        active=active,
        targets=Targets(active.positions(local_N), on_host=on_host),
        parts=parts,
    )


def _cat(pieces: Sequence[Tensor | None]) -> Tensor | None:
    there = [piece for piece in pieces if piece is not None]
    return torch.cat(there) if there else None


def _scales(passes: Sequence[Pass]) -> float | Tensor:
    """Return the scale of all rows, or of each where it moves."""
    first = passes[0].part.scale
    if not isinstance(first, Tensor):
        return first
    scales = [torch.as_tensor(each.part.scale).to(each.weight_N.dtype) for each in passes]
    return torch.cat([scale.expand_as(each.weight_N) for scale, each in zip(scales, passes)])


def _sample(each: Pass) -> Tensor:
    assert each.active.sample is not None, "the forwards of one step are all sampled or none"
    return each.active.sample
