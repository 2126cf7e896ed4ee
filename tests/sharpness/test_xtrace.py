"""XTrace against its definition, a projection for each vector, on Hessians whose entries are known; its spread."""

from __future__ import annotations

import math

import pytest
import torch

from fsbench.sharpness import Risk
from fsbench.sharpness.xtrace import xtrace
from sharpness.derivatives.test_hessian_operator import dense_hessian, state_of
from sharpness.networks import by_tensor, risk_of


def by_definition(hessian: torch.Tensor, k: int, seed: int) -> torch.Tensor:
    """t_i (k,), each with a projection of its own."""
    size = len(hessian)
    omega = torch.randn(k, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).T
    found = []
    for i in range(k):
        others = [j for j in range(k) if j != i]
        q, _ = torch.linalg.qr(hessian @ omega[:, others])
        x = omega[:, i] - q @ (q.T @ omega[:, i])
        found.append(torch.trace(q.T @ hessian @ q) + (size - k + 1) * (x @ hessian @ x) / (x @ x))
    return torch.stack(found)


@pytest.mark.parametrize("name", ["fcnn", "resnet", "frozen", "tied", "gelu", "tanh"])
def test_it_is_its_definition(name):
    risk, hessian = risk_of(name), dense_hessian(name)
    before = state_of(risk.model)
    estimate = xtrace(risk, products=21, seed=3)
    expected = by_definition(hessian, 10, 3)
    assert state_of(risk.model) == before
    assert estimate.value == pytest.approx(float(expected.mean()), rel=1e-8)
    assert estimate.stderr == pytest.approx(float(expected.std()) / math.sqrt(10), rel=1e-6)
    assert (estimate.samples, estimate.exact, estimate.seed, estimate.method) == (20, False, 3, "xtrace")
    assert estimate.value == pytest.approx(sum(estimate.per_layer.values()), rel=1e-9)


def test_exact_where_the_range_holds_all_of_the_hessian():
    """Five examples of four classes: a rank of 15 at most, for 84 weights."""
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 4).double()
    x, y = torch.randn(5, 20, dtype=torch.float64), torch.randint(4, (5,))
    risk = Risk(model, torch.nn.CrossEntropyLoss(), [(x, y)])
    hessian = torch.autograd.functional.hessian(
        lambda w: torch.nn.functional.cross_entropy(x @ w[:80].view(4, 20).T + w[80:], y),
        torch.cat([p.detach().flatten() for p in model.parameters()]),
    )
    estimate = xtrace(risk, products=60)
    assert (estimate.exact, estimate.stderr) == (True, 0.0)
    assert estimate.value == pytest.approx(float(hessian.trace()), rel=1e-9)
    found = by_tensor(risk, hessian.diag())
    assert estimate.per_layer == pytest.approx({name: float(part.sum()) for name, part in found.items()}, rel=1e-8)
    assert xtrace(risk, products=1000).value == pytest.approx(float(hessian.trace()), rel=1e-9)


@pytest.mark.parametrize("name", ["gelu", "fcnn"])
def test_unbiased_and_nearer_than_hutchinson_with_as_many_products(name):
    risk, hessian = risk_of(name), dense_hessian(name)
    truth = float(hessian.trace())
    draws = [by_definition(hessian, 15, seed) for seed in range(300)]
    means = torch.tensor([float(t.mean()) for t in draws], dtype=torch.float64)
    assert abs(float(means.mean()) - truth) < 4 * float(means.std()) / math.sqrt(300)
    hutchinson = math.sqrt(2 * float((hessian - hessian.diag().diag()).square().sum()) / 30)
    assert float(means.std()) < hutchinson
    # What the estimate says of itself, over draws: a little less than its spread.
    errors = torch.tensor([float(t.std()) / math.sqrt(15) for t in draws], dtype=torch.float64)
    assert 0.8 < float(errors.square().mean().sqrt()) / float(means.std()) < 1
    inside = ((means - truth).abs() < 2.145 * errors).double().mean()  # Student's t, 14 degrees of freedom
    assert 0.9 < float(inside) < 0.97
    assert xtrace(risk, products=30, seed=7).value == pytest.approx(float(draws[7].mean()), rel=1e-8)


@pytest.mark.parametrize("memory", [30_000, 100_000])
def test_blocks_do_not_change_it(memory):
    risk = risk_of("lenet")
    reference = xtrace(risk, products=12)
    risk.memory = memory
    assert xtrace(risk, products=12).value == pytest.approx(reference.value, rel=1e-9)


def test_too_few_products():
    with pytest.raises(ValueError, match="products=3: must be at least 4"):
        xtrace(risk_of("fcnn"), products=3)
