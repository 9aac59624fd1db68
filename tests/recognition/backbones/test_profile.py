"""Costs against numbers counted by hand and against a real run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recognition.backbones import build_backbone
from recognition.backbones.architecture import Architecture
from recognition.backbones.profile import activation_bytes, count_parameters, forward_flops, network_cost


def test_one_convolution_is_counted_by_hand() -> None:
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.PReLU(4))
    assert count_parameters(module) == 3 * 4 * 9 + 4
    assert forward_flops(module, 8) == 2 * 8 * 8 * 4 * 3 * 9
    assert activation_bytes(module, 8) == 4 * 8 * 8 * (3 + 4)  # the image for the convolution, its output for PReLU


@pytest.mark.parametrize(("network", "millions", "gflops"), [("r50", 43.59, 12.6), ("r100", 65.15, 24.2)])
def test_costs_are_those_published(network: str, millions: float, gflops: float) -> None:
    cost = network_cost(Architecture(network))
    assert cost.parameters / 1e6 == pytest.approx(millions, abs=0.01)
    assert cost.forward_flops / 1e9 == pytest.approx(gflops, rel=0.01)


def test_activations_are_those_of_a_real_run() -> None:
    sizes = {}
    module = build_backbone("tiny", embedding_size=16).train()
    own = {parameter.data_ptr() for parameter in module.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        output = module(torch.randn(4, 3, 112, 112))
    assert output.requires_grad
    assert network_cost(Architecture("tiny", 16)).activation_bytes == pytest.approx(sum(sizes.values()) / 4, rel=0.02)
