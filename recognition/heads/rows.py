"""The rows of a forward: what is gathered of the ranks' embeddings, and the global batch that all of them then have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recognition.heads.margins import Margin
from recognition.heads.unit import unit_and_length


@dataclass(frozen=True)
class Rows:
    """The global batch of a forward, equal on all ranks; `local_N` are class ids less this rank's first."""

    x_ND: Tensor
    length_N: Tensor | None
    label_N: Tensor
    local_N: Tensor
    weight_N: Tensor | None
    """What the loss of each image is multiplied by, float64; None: 1."""

    @classmethod
    def of(cls, margin: Margin, gathered: Tensor, label_N: Tensor, *, first_class: int, weights: Tensor | None) -> Rows:
        """Return the rows of what `prepared` gave on all ranks; `weights` [num_classes] or None."""
        x_ND, length_N, weight_N = gathered, None, None
        if margin.rows != "unit":
            length_N = torch.linalg.vector_norm(gathered, dim=1, dtype=torch.float64)
        elif margin.wants_lengths:
            x_ND, length_N = gathered[:, :-1].contiguous(), gathered[:, -1].double()
        if weights is not None:
            weight_N = weights.to(label_N.device)[label_N].double()
        return cls(x_ND, length_N, label_N, label_N - first_class, weight_N)


def prepared(margin: Margin, embeddings: Tensor) -> Tensor:
    """Return what is gathered of a rank's embeddings [B, D]: unit rows, with their lengths after them, or raw ones.

    Raw rows get a 1 after them where each center has its bias.
    """
    if margin.rows != "unit":
        return nn.functional.pad(embeddings, (0, 1), value=1.0) if margin.has_bias else embeddings
    x, length = unit_and_length(embeddings)
    return torch.cat([x, length.unsqueeze(1)], 1) if margin.wants_lengths else x
