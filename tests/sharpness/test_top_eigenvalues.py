"""Lanczos against all eigenvalues of the dense Hessian."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.top_eigenvalues import hessian_top_eigenpairs, hessian_top_eigenvalues
from sharpness.derivatives.test_hessian_operator import Changing, dense_hessian, flipped, hessian_of, state_of
from sharpness.networks import CLASSES, NETWORKS, SMOOTH, batches, risk_of


def ordered(hessian: torch.Tensor) -> torch.Tensor:
    return torch.linalg.eigvalsh(hessian).flip(0)


@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_largest(name):
    risk = risk_of(name)
    before = state_of(risk.model)
    found = hessian_top_eigenvalues(risk, 3, tolerance=1e-8)
    assert state_of(risk.model) == before
    assert [e.value for e in found] == pytest.approx(ordered(dense_hessian(name))[:3].tolist(), rel=1e-9)
    for estimate in found:
        assert (estimate.exact, estimate.stderr, estimate.seed, estimate.notes) == (True, 0.0, 0, ())
        assert sum(estimate.per_layer.values()) == pytest.approx(estimate.value, rel=1e-9)
        assert estimate.details["residual"] <= 1e-8 * abs(found[0].value)


def test_vectors_and_residuals():
    risk = risk_of("lenet")
    hessian = dense_hessian("lenet")
    for estimate, vector in hessian_top_eigenpairs(risk, 2, tolerance=1e-3):
        v = torch.cat([t.flatten() for t in vector.values()])
        assert list(vector) == risk.names
        assert [t.shape for t in vector.values()] == [p.shape for p in risk.weights]
        assert float(v.norm()) == pytest.approx(1, rel=1e-12)
        assert estimate.value == pytest.approx(float(v @ hessian @ v), rel=1e-9)
        residual = float((hessian @ v - estimate.value * v).norm())
        assert estimate.details["residual"] == pytest.approx(residual, rel=1e-3, abs=1e-14)


def test_what_has_not_converged_is_bounded_and_says_so():
    risk = risk_of("tanh")
    found = hessian_top_eigenvalues(risk, 4, tolerance=1e-12, max_products=22)
    values = ordered(dense_hessian("tanh"))
    assert not all(e.exact for e in found)
    assert found[0].value <= float(values[0]) * (1 + 1e-12)
    for estimate in found:
        residual = estimate.details["residual"]
        assert float((values - estimate.value).abs().min()) <= residual + 1e-14
        if not estimate.exact:
            assert math.isnan(estimate.stderr)
            assert estimate.notes[0].startswith(f"Not converged: ||H v - lambda v|| = {residual:.2g} after 22 products")


def test_no_more_products_than_allowed():
    found = hessian_top_eigenvalues(risk_of("tanh"), 4, tolerance=1e-12, max_products=50)
    assert found[0].details["products"] == 50


def tiny() -> Risk:
    torch.manual_seed(2)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3)).double().eval()
    data = [(x[:, 0, :2, :2], y.clamp(max=2)) for x, y in batches()]
    return Risk(model, nn.functional.cross_entropy, data)


@pytest.mark.parametrize("k", [1, 14, 15])
def test_few_weights(k):
    risk = tiny()
    found = hessian_top_eigenvalues(risk, k)
    assert [e.value for e in found] == pytest.approx(ordered(hessian_of(risk))[:k].tolist(), rel=1e-9, abs=1e-14)
    assert all(e.exact and e.method == "whole Hessian" for e in found)


def test_more_values_than_arpack_can_give():
    risk = risk_of("tokens")  # 96 weights
    found = hessian_top_eigenvalues(risk, 95)
    assert [e.value for e in found] == pytest.approx(
        ordered(dense_hessian("tokens"))[:95].tolist(), rel=1e-9, abs=1e-12
    )


def test_no_curvature():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()
    risk = Risk(model, lambda o, y: (o.sum(1) * y).mean(), batches())
    assert [(e.value, e.exact) for e in hessian_top_eigenvalues(risk, 2)] == [(0.0, True)] * 2


def test_single_precision_converges_as_far_as_its_products_go():
    exact = hessian_top_eigenvalues(risk_of("lenet"), 2)
    model = NETWORKS["lenet"]().float()
    risk = Risk(model, nn.functional.cross_entropy, [(x.float(), y) for x, y in batches()])
    found = hessian_top_eigenvalues(risk, 2)
    assert [e.value for e in found] == pytest.approx([e.value for e in exact], rel=1e-5)
    assert all(e.exact for e in found)


def test_random_augmentation_is_refused():
    risk = Risk(NETWORKS["lenet"](), nn.functional.cross_entropy, Changing(flipped))
    with pytest.raises(Refused, match="batches yield other examples"):
        hessian_top_eigenvalues(risk)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k=0: must be 1 to 218"),
        ({"k": 219}, "k=219: must be 1 to 218"),
        ({"tolerance": 0.0}, "tolerance=0.0: must be a finite number > 0"),
        ({"max_products": 5}, "max_products=5: must be at least 22 for k=1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        hessian_top_eigenvalues(risk_of("lenet"), **arguments)
