"""Margins against their printed formulas, their derivatives against autograd, and their names in a config."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

from recognition.errors import ConfigError
from recognition.heads.margins import (
    MARGINS,
    AdaFace,
    ArcFace,
    CombinedMargin,
    CosFace,
    CurricularFace,
    Facts,
    Margin,
    NoMargin,
    OwnRows,
    SphereFace,
    make_margin,
)

COSINE = torch.cos(torch.linspace(0.02, math.pi - 0.02, 200, dtype=torch.float64))
ALL = [
    ArcFace(0.5),
    CosFace(0.35),
    SphereFace(1.35),
    SphereFace(3.0, continuation="psi"),
    CombinedMargin(0.9, 0.4, 0.15),
    CombinedMargin(1, 0.3, 0.2),
    NoMargin(),
]


def own_rows(cosine: torch.Tensor = COSINE) -> OwnRows:
    count = len(cosine)
    lengths = torch.linspace(1, 40, count, dtype=torch.float64)
    return OwnRows(cosine, torch.arange(count), lengths, lse_negatives_N=torch.linspace(2, 9, count).double())


def test_arcface_adds_the_angle_and_continues_past_pi() -> None:
    logit, derivative = ArcFace(0.5).shape(COSINE)
    theta = torch.acos(COSINE)
    formula = torch.where(theta + 0.5 <= math.pi, torch.cos(theta + 0.5), COSINE - 0.5 * math.sin(0.5))
    assert torch.allclose(logit, formula, atol=1e-14)
    assert torch.equal(derivative, torch.ones_like(COSINE))


def test_no_part_of_a_combined_margin_is_dropped() -> None:
    cosine = torch.tensor([0.7], dtype=torch.float64)
    logit, _ = CombinedMargin(1.0, 0.3, 0.2).shape(cosine)
    assert logit.item() == pytest.approx(math.cos(math.acos(0.7) + 0.3) - 0.2, abs=1e-14)
    logit, _ = CombinedMargin(1.35, 0.0, 0.0).shape(cosine)
    assert logit.item() == pytest.approx(math.cos(1.35 * math.acos(0.7)), abs=1e-14)


@pytest.mark.parametrize("margin", ALL, ids=repr)
def test_logit_falls_with_the_angle(margin: CombinedMargin | SphereFace) -> None:
    logit, _ = margin.shape(COSINE)
    assert bool((logit[1:] < logit[:-1]).all())


@pytest.mark.parametrize("margin", ALL, ids=repr)
def test_exact_derivative_is_that_of_the_logit(margin: CombinedMargin | SphereFace) -> None:
    exact: CombinedMargin | SphereFace
    if isinstance(margin, SphereFace):
        exact = SphereFace(margin.m, "exact", margin.continuation)
    else:
        exact = CombinedMargin(margin.m1, margin.m2, margin.m3, "exact", margin.easy_margin)
    cosine = COSINE.clone().requires_grad_()
    logit, derivative = exact.shape(cosine)
    (by_autograd,) = torch.autograd.grad(logit.sum(), cosine)
    assert torch.allclose(derivative.detach(), by_autograd, rtol=1e-9)


def bound(name: str, **settings: Any) -> Margin:
    """Return a margin as a head of 200 classes has it."""
    sizes = torch.arange(200) % 5 + 1
    return MARGINS[name](**settings).bind(Facts(200, 16.0, 1.0, 3, sizes))


@pytest.mark.parametrize("name", MARGINS)
def test_finite_at_and_beyond_the_ends(name: str) -> None:
    for gradient in ("exact", None):
        has_choice = "gradient" in inspect.signature(MARGINS[name]).parameters
        margin = bound(name, **({"gradient": gradient} if gradient and has_choice else {}))
        own = own_rows(torch.tensor([-1.0, 1.0, 1 + 1e-6, -1 - 1e-6], dtype=torch.float64))
        state = margin.observe(margin.first(), own)
        for value in vars(margin.target(state, own)).values():
            assert value is None or bool(value.isfinite().all())
        if margin.bends_negatives:
            bent, slope = margin.negative(state, own, own.cosine_N.repeat(4, 1).float())
            assert bool(bent.isfinite().all())
            assert slope is None or bool(slope.isfinite().all())


def test_adaface_is_its_equation_also_where_angle_and_quality_are_clipped() -> None:
    cosine = COSINE.repeat(2).requires_grad_()  # each angle with a short and with a long embedding
    length = torch.cat([torch.linspace(0.5, 12, 200), torch.linspace(28, 120, 200)]).double().requires_grad_()
    state = {"mean": torch.tensor(20.0, dtype=torch.float64), "std": torch.tensor(9.0, dtype=torch.float64)}
    quality = ((length.clamp(1e-3, 100) - 20.0) / 9.001 * 0.9).clamp(-1, 1)
    angle = (torch.arccos(cosine) - 0.4 * quality).clamp(1e-3, math.pi - 1e-3)
    formula = torch.cos(angle) - 0.4 * quality - 0.4
    by_cosine, by_length = torch.autograd.grad(formula.sum(), [cosine, length])
    own = OwnRows(cosine.detach(), torch.arange(400), length.detach())
    found = AdaFace(m=0.4, h=0.9, length_gradient="exact").target(state, own)
    assert found.by_length is not None
    assert torch.allclose(found.logit, formula.detach(), atol=1e-13)
    assert torch.allclose(found.by_cosine, by_cosine, rtol=1e-10, atol=1e-13)
    assert torch.allclose(found.by_length, by_length, rtol=1e-10, atol=1e-13)
    assert 10 < int((by_cosine == 0).sum()) < 200, "some angles are clipped"
    assert 10 < int((by_length == 0).sum()) < 390, "some qualities are clipped"


@pytest.mark.parametrize("name", MARGINS)
def test_to_observe_is_not_to_change(name: str) -> None:
    margin = bound(name, **({"scale": "last_step"} if name == "adacos" else {}))
    before = margin.first()
    after = margin.observe(before, own_rows())
    assert all(torch.equal(value, margin.first()[key]) for key, value in before.items())
    assert before.keys() == after.keys()
    moves_by_gradient = margin.sums == "softplus"
    assert not before or moves_by_gradient != any(not torch.equal(value, after[key]) for key, value in before.items())


@pytest.mark.parametrize("name", MARGINS)
def test_negatives_stay_within_the_margins_bound(name: str) -> None:
    margin = bound(name, **({"version": "v2"} if name == "spherefacer" else {}))
    if not margin.bends_negatives or margin.sums == "softplus":
        return
    own = own_rows()
    for t in (0.0, 1.0):
        state = {key: torch.tensor(t, dtype=torch.float64) for key in margin.first()}
        bent, _ = margin.negative(state, own, torch.linspace(-1, 1, 50).repeat(len(COSINE), 1))
        assert bent.abs().max() <= margin.largest + 1e-6


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("arcfase", {}, "name: found 'arcfase', expected a margin; did you mean 'arcface'?"),
        ("arcface", {"n": 0.5}, "n: unknown setting of margin 'arcface'; expected one of easy_margin, gradient, m"),
        ("adaface", {"alfa": 0.5}, "alfa: unknown setting of margin 'adaface'; did you mean 'alpha'?"),
        ("none", {"m": 0.5}, "m: unknown setting of margin 'none'; it has none"),
        ("arcface", {"m": "0.5"}, "m: found '0.5', expected a number; correct it"),
        ("arcface", {"m": 28.6}, "margin: found m1=1.0, m2=28.6, m3=0.0; expected m1 > 0, 0 <= m2 < pi"),
        ("arcface", {"gradient": "full"}, "gradient: found 'full', expected one of straight_through, exact"),
        ("curricularface", {"alpha": 0}, "margin: found m=0.5, alpha=0; expected 0 <= m < pi"),
        (
            "arcface",
            {"m": 2.0, "easy_margin": True},
            "margin: found easy_margin with m1=1.0, m2=2.0; expected m1 pi / 2",
        ),
        ("arcface", {"easy_margn": True}, "easy_margn: unknown setting of margin 'arcface'; did you mean"),
        ("adacos", {"num_classes": 3}, "num_classes: unknown setting of margin 'adacos'; expected one of scale"),
        ("adacos", {"scale": 3.0}, "scale: found 3.0, expected one of fixed, last_step, this_step"),
        ("asoftmax", {"m": 0}, "margin: found m=0, base=1000.0, gamma=0.12, power=1.0, lambda_min=5.0; expected"),
        ("circle", {"m": 1.0}, "margin: found m=1.0; expected 0 <= m < 1; correct it"),
        ("circle", {"gama": 1.0}, "gama: unknown setting of margin 'circle'; expected one of gradient, m"),
        ("elasticface", {"std": 1.0}, "margin: found m=0.5, std=1.0; expected"),
        ("elasticface", {"kind": "sin"}, "kind: found 'sin', expected one of arc, cos"),
        ("ldam", {"m": 2.5}, "margin: found m=2.5; expected 0 <= m <= 2; correct it"),
        ("lsoftmax", {"m": 5}, "margin: found m=5; expected 2, 3 or 4; correct it"),
        ("lsoftmax", {"lambda": 5}, "lambda: unknown setting of margin 'lsoftmax'; did you mean 'lambda_min'?"),
        ("magface", {"l_a": 200.0}, "margin: found l_a=200.0, u_a=110.0, l_m=0.45, u_m=0.8, lambda_g=35.0; expected"),
        ("mvsoftmax", {"t": -0.1}, "margin: found m=0.35, t=-0.1; expected"),
        ("mvsoftmax", {"weight": "fix"}, "weight: found 'fix', expected one of fixed, adaptive"),
        ("softmax", {"bias": 1}, "bias: found 1, expected true or false"),
        ("sphereface", {"m": 0.5}, "margin: found m=0.5; expected 1 <= m <= 8; correct it"),
        ("spherefacer", {"version": "v3"}, "version: found 'v3', expected one of v1, v2"),
        ("sphereface2", {"balance": 1.0}, "margin: found m=0.4, t=3.0, balance=1.0; expected"),
        ("uniface", {"balance": 0.0}, "margin: found m=0.4, balance=0.0; expected"),
        ("adaface", {"h": -1.0}, "margin: found m=0.4, h=-1.0, alpha=0.01; expected"),
    ],
)
def test_a_wrong_name_setting_or_value_is_named(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_margin(name, settings)
    assert str(caught.value).startswith(message)


def test_settings_reach_the_margin() -> None:
    assert make_margin("arcface", {"m": 0.3, "gradient": "exact"}) == ArcFace(0.3, "exact")
    assert make_margin("cosface", {}) == CosFace()
    assert make_margin("curricularface", {"m": 0.4}) == CurricularFace(0.4)
    assert make_margin("adaface", {"length_gradient": "exact"}) == AdaFace(length_gradient="exact")


def test_every_margin_says_where_it_comes_from() -> None:
    for name in MARGINS:
        kind = MARGINS[name]
        assert issubclass(kind, Margin)
        assert any(source in (kind.__doc__ or "") for source in ("arXiv:", "ICCV 2023")), name
