"""XDiag against its definition, a projection for each vector, on Hessians whose entries are known; its spread."""

from __future__ import annotations

import math

import pytest
import torch

from fsbench.sharpness import Risk, hessian_diagonal
from fsbench.sharpness.xdiag import xdiag
from sharpness.derivatives.test_hessian_operator import dense_hessian, state_of
from sharpness.networks import by_tensor, risk_of


def by_definition(hessian: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """d_i, the columns of (W, k), each with a projection of its own."""
    omega = torch.randn(k, len(hessian), dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).T
    found = []
    for i in range(k):
        q, _ = torch.linalg.qr(hessian @ omega[:, [j for j in range(k) if j != i]])
        product = hessian @ omega[:, i]
        found.append((q @ (q.T @ hessian)).diag() + omega[:, i] * (product - q @ (q.T @ product)))
    return torch.stack(found, 1)


@pytest.mark.parametrize("name", ["fcnn", "resnet", "frozen", "tied", "gelu", "tanh"])
def test_it_is_its_definition(name):
    risk, hessian = risk_of(name), dense_hessian(name)
    before = state_of(risk.model)
    diagonal = hessian_diagonal(risk, "xdiag", probes=21, seed=3)
    expected = by_definition(hessian, 10, 3)
    assert state_of(risk.model) == before
    for tensor, values in by_tensor(risk, expected.mean(1)).items():
        torch.testing.assert_close(diagonal.values[tensor], values, rtol=1e-7, atol=1e-9)
    for tensor, errors in by_tensor(risk, expected.std(1) / math.sqrt(10)).items():
        torch.testing.assert_close(diagonal.stderr[tensor], errors, rtol=1e-6, atol=1e-9)
    assert (diagonal.samples, diagonal.exact, diagonal.seed, diagonal.method) == (20, False, 3, "xdiag")


def test_exact_where_the_range_holds_all_of_the_hessian():
    """Five examples of four classes: a rank of 15 at most, for 84 weights."""
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 4).double()
    x, y = torch.randn(5, 20, dtype=torch.float64), torch.randint(4, (5,))
    risk = Risk(model, torch.nn.CrossEntropyLoss(), [(x, y)])
    exact = hessian_diagonal(risk)
    for products in (60, 1000):
        diagonal = xdiag(risk, products=products)
        assert (diagonal.exact, diagonal.stderr) == (True, None)
        for tensor, values in exact.values.items():
            torch.testing.assert_close(diagonal.values[tensor], values, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["gelu", "fcnn"])
def test_unbiased_and_its_intervals_hold_the_truth(name):
    hessian = dense_hessian(name)
    truth = hessian.diag()
    draws = torch.stack([by_definition(hessian, 15, seed) for seed in range(200)])
    means, errors = draws.mean(2), draws.std(2) / math.sqrt(15)
    away = (means.mean(0) - truth) / (means.std(0) / math.sqrt(200)).clamp(min=1e-15)
    assert float(away.abs().max()) < 5
    sampled = means.std(0) > 1e-12  # Weights behind a dead ReLU have zeros, exactly.
    inside = ((means - truth).abs() < 2.145 * errors)[:, sampled].double().mean()
    assert 0.93 < float(inside) < 0.97


def test_too_few_products():
    with pytest.raises(ValueError, match="products=3: must be at least 4"):
        xdiag(risk_of("fcnn"), products=3)
