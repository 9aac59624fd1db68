"""Functions of the angle whose cosine is given, with their derivatives by that cosine."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Gradient = Literal["straight_through", "exact"]

# d cos(theta + m) / d cos(theta) = sin(theta + m) / sin(theta) has a pole at theta = 0. The gradient that reaches an
# embedding carries another sin(theta), so bounding the ratio below a thousandth of a radian changes no step that
# could be seen.
SMALLEST_SINE = 1e-3


def angle_of(cosine: Tensor) -> Tensor:
    """Return the angle of a cosine that rounding may have carried past the ends."""
    return torch.acos(cosine.clamp(-1, 1))


def add_to_angle(cosine: Tensor, m: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return cos(theta + m) and its derivative by the cosine.

    Past theta + m = pi it continues as cos(theta) - m sin(m), as in ArcFace's first implementation.
    """
    theta = angle_of(cosine)
    angle = theta + m
    beyond = angle > math.pi
    drop = m * (torch.sin(m) if isinstance(m, Tensor) else math.sin(m))
    ratio = torch.sin(angle) / torch.sin(theta).clamp_min(SMALLEST_SINE)
    return torch.where(beyond, cosine - drop, torch.cos(angle)), torch.where(beyond, 1.0, ratio)


def psi(cosine: Tensor, m: float) -> tuple[Tensor, Tensor]:
    """Return (-1)^k cos(m theta) - 2k for theta in [k pi / m, (k + 1) pi / m], and its derivative by the cosine.

    arXiv:1612.02295. The derivative m |sin(m theta)| / sin(theta) is 0 at the seams and m^2 at theta = 0; it is
    bounded within a thousandth of a radian of the ends.
    """
    theta = angle_of(cosine)
    angle = m * theta
    turns = torch.floor(angle / math.pi)
    value = (1 - 2 * torch.remainder(turns, 2)) * torch.cos(angle) - 2 * turns
    return value, m * torch.sin(angle).abs() / torch.sin(theta).clamp_min(SMALLEST_SINE)
