"""Weights of networks that are fed in another way than here: AdaFace's take BGR."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

logger = logging.getLogger(__name__)

_CLASS_MATRIX, _FIRST = "head.kernel", "model.input_layer.0.weight"
"""Keys of AdaFace's Lightning module: beside its class matrix, the first layer of its network."""


def turned_to_rgb(state: Mapping[str, Tensor], *, place: Path) -> dict[str, Tensor]:
    """Return `state`, with the first layer turned around where it is a checkpoint of AdaFace's trainer.

    Its networks take BGR, ours RGB.
    """
    if _CLASS_MATRIX not in state or _FIRST not in state:
        return dict(state)
    logger.warning("%s: written by AdaFace's trainer, whose networks take BGR; turned to RGB", place)
    return {**state, _FIRST: state[_FIRST].flip(1)}
