"""Vision transformers (arXiv:2010.11929) over the patches of an aligned face, under insightface's state-dict names.

No class token: after the last block all tokens go side by side into two dense layers. In training whole branches are
dropped (arXiv:1603.09382) and part of the patches is hidden from the blocks (arXiv:2111.06377).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from recognition.backbones.precision import full_precision
from recognition.errors import ConfigError

PUBLISHED_SIZE = 112
"""Image size of the published networks, though their patches of 9 pixels cover 108 of it and never see the rest."""


@dataclass(frozen=True)
class Shape:
    """What names tell apart: sizes, and how the network is trained unless told otherwise."""

    width: int
    depth: int
    heads: int = 8
    patch: int = 9
    drop_path: float = 0.0
    mask_ratio: float = 0.0
    checkpointed: bool = False


class Attention(nn.Module):
    """Multi-head self-attention; the three projections share one matrix without bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # [B, L, 3 * width] -> three of [B, heads, L, width / heads]
        query, key, value = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        y: torch.Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return y


class FeedForward(nn.Module):
    """Two dense layers with ReLU6 between them, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.act = nn.ReLU6()
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class DropPath(nn.Module):
    """In training, replace a branch by zeros for a share `rate` of the images and scale the others up to match."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.rate == 0.0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - self.rate)
        return x * kept / (1.0 - self.rate)


class Block(nn.Module):
    """Attention, then a feed-forward, each on normalized tokens and added to them."""

    def __init__(self, width: int, heads: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = FeedForward(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        y: torch.Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return y


class PatchEmbedding(nn.Module):
    """One token per patch: a convolution whose stride is its kernel."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.proj(images).flatten(2).transpose(1, 2)
        return tokens


class VisionTransformer(nn.Module):
    """Patches, positions, blocks, then all L tokens into one vector: dense, BN, dense, BN.

    `drop_path` is the share of dropped branches in the last block, growing from 0 in the first; `mask_ratio` the share
    of tokens that the blocks do not see and a learned token stands for after them; `activation_checkpointing` forgets
    what is inside a block and computes it again in the backward pass. They act in training alone; None takes the
    shape's. forward(images [B, 3, image_size, image_size]) -> embeddings [B, embedding_size]; the last norm and what
    follows run in the weights' precision (float32) also under autocast. Raises ConfigError for an image size that is
    neither the published one nor a multiple of the patch.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        embedding_size: int = 512,
        dropout: float = 0.0,
        image_size: int = PUBLISHED_SIZE,
        drop_path: float | None = None,
        mask_ratio: float | None = None,
        activation_checkpointing: bool | None = None,
    ) -> None:
        super().__init__()
        drop_path = shape.drop_path if drop_path is None else drop_path
        self.mask_ratio = shape.mask_ratio if mask_ratio is None else mask_ratio
        self.activation_checkpointing = (
            shape.checkpointed if activation_checkpointing is None else activation_checkpointing
        )
        num_tokens, width = _num_tokens(image_size, shape.patch), shape.width
        self.patch_embed = PatchEmbedding(width, shape.patch)
        self.pos_embed = nn.Parameter(torch.empty(1, num_tokens, width))
        # Untrained where nothing is masked: a weight that no loss reaches would keep DDP waiting for its gradient.
        self.mask_token = nn.Parameter(torch.empty(1, 1, width), requires_grad=self.mask_ratio > 0)
        last = max(1, shape.depth - 1)
        self.blocks = nn.ModuleList(Block(width, shape.heads, drop_path * index / last) for index in range(shape.depth))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.feature = nn.Sequential(
            nn.Linear(width * num_tokens, width, bias=False),
            nn.BatchNorm1d(width, eps=2e-5),
            nn.Linear(width, embedding_size, bias=False),
            nn.BatchNorm1d(embedding_size, eps=2e-5),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw dense layers, positions and the mask's token with a deviation of 0.02, as published; norms are 1."""
        if self.pos_embed.is_meta:
            return  # to draw nothing there, trunc_normal_ would import torch's reference library, which takes 3 s
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def layers(self) -> list[list[nn.Parameter]]:
        """Return all parameters from the first layer to the last: patches and positions, each block, what follows."""
        first = [*self.patch_embed.parameters(), self.pos_embed, self.mask_token]
        blocks = [list(block.parameters()) for block in self.blocks]
        return [first, *blocks, [*self.norm.parameters(), *self.feature.parameters()]]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patch_embed(images) + self.pos_embed  # [B, L, width]
        if self.training and self.mask_ratio > 0:
            x = self._run_masked(x)
        else:
            x = self._run(x)
        x = self.dropout(x.flatten(1))
        with full_precision(x):
            embeddings: torch.Tensor = self.feature(x)
            return embeddings

    def _run_masked(self, x: torch.Tensor) -> torch.Tensor:
        """Run the blocks on a random choice of each image's tokens and put the mask's token in the other places."""
        num_images, num_tokens, width = x.shape
        num_kept = max(1, int(num_tokens * (1 - self.mask_ratio)))
        kept = torch.rand(num_images, num_tokens, device=x.device).argsort(dim=1)[:, :num_kept]
        places = kept.unsqueeze(-1).expand(-1, -1, width)
        seen = self._run(x.gather(1, places))
        return self.mask_token.to(seen.dtype).expand(num_images, num_tokens, -1).scatter(1, places, seen)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        """Run blocks and the last norm, in the weights' precision for the latter."""
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, use_reentrant=False)
            else:
                x = block(x)
        with full_precision(x):
            tokens: torch.Tensor = self.norm(x.to(self.norm.weight.dtype))
            return tokens


def _num_tokens(image_size: int, patch: int) -> int:
    if image_size != PUBLISHED_SIZE and image_size % patch:
        below = image_size // patch * patch
        raise ConfigError(
            f"data.image_size: {image_size} is no multiple of this network's patch of {patch} pixels; expected one, or "
            f"{PUBLISHED_SIZE}; set data.image_size to {below or patch} or {below + patch}"
        )
    return (image_size // patch) ** 2


SHAPES: Mapping[str, Shape] = {
    "vit_t": Shape(256, 12, drop_path=0.1, mask_ratio=0.1),
    "vit_t_dp005_mask0": Shape(256, 12, drop_path=0.05),
    "vit_s": Shape(512, 12, drop_path=0.1, mask_ratio=0.1),
    "vit_s_dp005_mask_0": Shape(512, 12, drop_path=0.05),
    "vit_b": Shape(512, 24, drop_path=0.1, mask_ratio=0.1, checkpointed=True),
    "vit_b_dp005_mask_005": Shape(512, 24, drop_path=0.05, mask_ratio=0.05, checkpointed=True),
    "vit_l_dp005_mask_005": Shape(768, 24, drop_path=0.05, mask_ratio=0.05, checkpointed=True),
    "vit_h": Shape(1024, 48, drop_path=0.1, checkpointed=True),
    "vit_xs": Shape(128, 4, heads=4, patch=14),
}
"""arcface_torch's, which honors no ratio of its masks but 0.1, and `vit_xs`, which a CPU can train."""

NETWORKS: Mapping[str, Callable[..., nn.Module]] = {
    name: functools.partial(VisionTransformer, shape) for name, shape in SHAPES.items()
}
