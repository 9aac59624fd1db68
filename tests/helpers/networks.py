"""What tests over all networks need to know of them."""

from __future__ import annotations

OTHER_SIZE = 126
"""An image size beside 112 that every network takes: a multiple of both sizes of patches."""

TWINS = {"vit_t_dp005_mask0": "vit_t", "vit_s_dp005_mask_0": "vit_s", "vit_b_dp005_mask_005": "vit_b"}
"""Networks that differ in training alone -> the one that their weights are taken for."""
