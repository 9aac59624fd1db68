"""Margins against their printed formulas, their derivatives against autograd and finite differences."""

from __future__ import annotations

import math

import pytest
import torch

from recognition.errors import ConfigError
from recognition.heads.margins import ArcFace, CombinedMargin, CosFace, NoMargin, SphereFace, make_margin

COSINE = torch.cos(torch.linspace(0.02, math.pi - 0.02, 200, dtype=torch.float64))
ALL = [
    ArcFace(0.5),
    CosFace(0.35),
    SphereFace(1.35),
    CombinedMargin(0.9, 0.4, 0.15),
    CombinedMargin(1, 0.3, 0.2),
    NoMargin(),
]


def test_arcface_adds_the_angle_and_continues_past_pi() -> None:
    logit, derivative = ArcFace(0.5)(COSINE)
    theta = torch.acos(COSINE)
    formula = torch.where(theta + 0.5 <= math.pi, torch.cos(theta + 0.5), COSINE - 0.5 * math.sin(0.5))
    assert torch.allclose(logit, formula, atol=1e-14)
    assert torch.equal(derivative, torch.ones_like(COSINE))


def test_no_part_of_a_combined_margin_is_dropped() -> None:
    logit, _ = make_margin(1.0, 0.3, 0.2)(torch.tensor([0.7], dtype=torch.float64))
    assert logit.item() == pytest.approx(math.cos(math.acos(0.7) + 0.3) - 0.2, abs=1e-14)
    logit, _ = make_margin(1.35, 0.0, 0.0)(torch.tensor([0.7], dtype=torch.float64))
    assert logit.item() == pytest.approx(math.cos(1.35 * math.acos(0.7)), abs=1e-14)


@pytest.mark.parametrize("margin", ALL, ids=repr)
def test_logit_falls_with_the_angle(margin: CombinedMargin) -> None:
    logit, _ = margin(COSINE)
    assert bool((logit[1:] < logit[:-1]).all())


@pytest.mark.parametrize("margin", ALL, ids=repr)
def test_exact_derivative_is_that_of_the_logit(margin: CombinedMargin) -> None:
    exact = CombinedMargin(margin.m1, margin.m2, margin.m3, "exact")
    cosine = COSINE.clone().requires_grad_()
    logit, derivative = exact(cosine)
    (by_autograd,) = torch.autograd.grad(logit.sum(), cosine)
    assert torch.allclose(derivative.detach(), by_autograd, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("margin", ALL, ids=repr)
def test_finite_at_and_beyond_the_ends(margin: CombinedMargin, dtype: torch.dtype) -> None:
    exact = CombinedMargin(margin.m1, margin.m2, margin.m3, "exact")
    ends = torch.tensor([-1.0, 1.0, 1 + 1e-6, -1 - 1e-6], dtype=dtype)
    for values in exact(ends):
        assert bool(values.isfinite().all())


def test_make_margin_names_the_paper() -> None:
    assert isinstance(make_margin(1, 0.5, 0), ArcFace)
    assert isinstance(make_margin(1, 0, 0.4), CosFace)
    assert isinstance(make_margin(1.35, 0, 0), SphereFace)
    assert isinstance(make_margin(1, 0, 0), NoMargin)


def test_a_margin_in_degrees_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"head.margins: found m1=1.0, m2=28.6; expected m1 > 0 and 0 <= m2 < pi"):
        make_margin(1.0, 28.6, 0.0)
