"""The vision transformer: attention against its formula, masks, dropped branches, checkpointing, sizes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.formula_weights import relative_difference
from recognition.backbones import build_backbone
from recognition.backbones.vit import SHAPES, Attention, Block, DropPath
from recognition.errors import ConfigError


def small(**options: int | float) -> nn.Module:
    torch.manual_seed(0)
    return build_backbone("vit_xs", embedding_size=16, **options)


def images(count: int = 4) -> torch.Tensor:
    return torch.randn(count, 3, 112, 112, generator=torch.Generator().manual_seed(1))


def test_attention_is_softmax_of_scaled_products() -> None:
    torch.manual_seed(0)
    layer = Attention(24, 3).double()
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    expected = torch.zeros(2, 7, 24, dtype=torch.float64)
    q, k, v = (x @ layer.qkv.weight.T).split(24, dim=-1)
    for head in range(3):
        own = slice(8 * head, 8 * head + 8)
        weights = (q[..., own] @ k[..., own].transpose(1, 2) / 8**0.5).softmax(-1)
        expected[..., own] = weights @ v[..., own]
    assert relative_difference(layer(x), expected @ layer.proj.weight.T + layer.proj.bias) < 1e-12


def test_a_dropped_branch_is_zero_and_the_others_make_up_for_it() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.25).train()
    kept = drop(torch.ones(20_000, 2, 3))
    assert kept.unique().tolist() == pytest.approx([0.0, 1 / 0.75])
    assert (kept.amax((1, 2)) == kept.amin((1, 2))).all(), "an image's branch as a whole"
    assert kept.mean().item() == pytest.approx(1.0, abs=0.02)
    assert torch.equal(drop.eval()(kept), kept)


def test_branches_are_dropped_more_often_with_depth() -> None:
    with torch.device("meta"):
        module = build_backbone("vit_t")
    rates = [block.drop_path.rate for block in module.blocks]
    assert rates == pytest.approx([0.1 * index / 11 for index in range(12)])


@pytest.mark.parametrize(("ratio", "seen"), [(0.0, 64), (0.1, 57), (0.5, 32), (0.99, 1)])
def test_a_mask_hides_its_share_of_the_patches_in_training_alone(ratio: float, seen: int) -> None:
    module = small(mask_ratio=ratio)
    lengths: list[int] = []
    module.blocks[0].register_forward_hook(lambda _, inputs, output: lengths.append(inputs[0].shape[1]))
    module.train()(images())
    module.eval()(images())
    assert lengths == [seen, 64]


def test_hidden_patches_are_replaced_by_the_token_in_their_places() -> None:
    module = small(mask_ratio=0.5).train()
    module.blocks = nn.ModuleList()
    module.norm = nn.Identity()
    module.norm.weight = torch.zeros(1)
    with torch.no_grad():
        tokens = torch.arange(64.0).reshape(1, 64, 1).expand(3, 64, 128) + 1.0
        module.mask_token.fill_(-1.0)
        whole = module._run_masked(tokens)[..., 0]
    for row in whole:
        hidden = row == -1.0
        assert hidden.sum() == 32
        assert torch.equal(row[~hidden], (torch.arange(64.0) + 1.0)[~hidden])
    assert not torch.equal(whole[0] == -1.0, whole[1] == -1.0), "each image has its own draw"


@pytest.mark.parametrize("ratio", [0.0, 0.3])
def test_every_trained_weight_has_a_gradient(ratio: float) -> None:
    module = small(mask_ratio=ratio).train()
    module(images()).square().sum().backward()
    untrained = {name for name, weight in module.named_parameters() if not weight.requires_grad}
    assert untrained == ({"mask_token"} if ratio == 0.0 else set())
    assert all(weight.grad is not None for weight in module.parameters() if weight.requires_grad)


@pytest.mark.slow
def test_checkpointing_changes_no_bit_of_the_gradients() -> None:
    gradients = []
    for again in (False, True):
        module = small(drop_path=0.3, mask_ratio=0.2, activation_checkpointing=again).train()
        torch.manual_seed(5)
        module(images()).square().sum().backward()
        gradients.append([weight.grad for weight in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


@pytest.mark.slow
def test_checkpointing_runs_each_block_twice() -> None:
    runs = {True: 0, False: 0}
    for again in runs:
        module = small(activation_checkpointing=again).train()

        def count(*_: object, key: bool = again) -> None:
            runs[key] += 1

        for block in module.blocks:
            block.attn.proj.register_forward_pre_hook(count)
        module(images()).square().sum().backward()
    assert runs == {False: 4, True: 8}


def test_the_name_decides_where_no_option_does() -> None:
    with torch.device("meta"):
        for name, shape in SHAPES.items():
            module = build_backbone(name)
            assert (module.mask_ratio, module.activation_checkpointing) == (shape.mask_ratio, shape.checkpointed)
            other = build_backbone(name, mask_ratio=0.25, activation_checkpointing=False, drop_path=0.5)
            assert (other.mask_ratio, other.activation_checkpointing) == (0.25, False)
            last = other.blocks[-1]
            assert isinstance(last, Block)
            assert last.drop_path.rate == 0.5


@pytest.mark.parametrize(("network", "size", "near"), [("vit_t", 96, "90 or 99"), ("vit_xs", 100, "98 or 112")])
def test_an_image_size_that_the_patch_does_not_divide_is_refused(network: str, size: int, near: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"data.image_size: {size} is no multiple of .* set data.image_size to {near}"
    ):
        build_backbone(network, image_size=size)


@pytest.mark.parametrize("name", ["drop_path", "mask_ratio"])
@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_outside_its_range_is_refused(name: str, share: float) -> None:
    with pytest.raises(ConfigError, match=rf"backbone.{name}: {share} is outside \[0, 1\)"):
        build_backbone("vit_xs", **{name: share})


def test_the_small_one_learns_to_tell_images_apart() -> None:
    module = small(image_size=28).train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    data, labels = images(16)[:, :, :28, :28], torch.arange(16)
    centers = nn.functional.normalize(torch.randn(16, 16, generator=torch.Generator().manual_seed(2)))
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(16 * nn.functional.normalize(module(data)) @ centers.T, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
