"""What is known of each class: how many images it has, and what they count."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ByClass:
    """Two numbers of each class, [num_classes], the same on every rank."""

    sizes: Tensor | None = None
    """Images, int64: for margins that follow them."""
    weights: Tensor | None = None
    """What the loss of an image is multiplied by; None: 1."""

    def on(self, device: torch.device) -> ByClass:
        """Return the same on a device, so that no step carries them there."""
        there = (None if each is None else each.to(device) for each in (self.sizes, self.weights))
        return ByClass(*there)

    @classmethod
    def balanced(cls, sizes: Tensor, beta: float) -> ByClass:
        """Return weights by the effective number of images, (1 - beta) / (1 - beta^n); their mean over images is 1.

        arXiv:1901.05555. `beta` from 0, where all classes weigh alike, towards 1, where all images of a class together
        weigh as much as those of any other.
        """
        n = sizes.clamp_min(1).double()
        weights = (1 - beta) / (1 - beta**n)
        share = sizes.double() / sizes.sum()
        return cls(sizes, (weights / (share * weights).sum()).float())
