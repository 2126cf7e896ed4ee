"""Stochastic Lanczos quadrature against the powers of Hessians whose entries are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fsbench.sharpness import Risk, spectral_density
from sharpness.derivatives.test_hessian_operator import dense_hessian, state_of
from sharpness.networks import risk_of


@pytest.mark.parametrize("name", ["fcnn", "resnet", "frozen", "tied", "gelu", "tanh"])
def test_moments_are_those_of_the_probes(name):
    risk, hessian = risk_of(name), dense_hessian(name).numpy()
    before = state_of(risk.model)
    found = spectral_density(risk, probes=3, steps=4, seed=5)
    assert state_of(risk.model) == before
    generator = torch.Generator().manual_seed(5)
    probes = [torch.randn(len(hessian), generator=generator, dtype=torch.float64).numpy() for _ in range(3)]
    for power in range(8):
        image = np.linalg.matrix_power(hessian, power)
        expected = [v @ image @ v / (v @ v) for v in probes]
        assert found.moments(power) == pytest.approx(expected, rel=1e-7)
    assert (found.size, found.products, found.seed) == (len(hessian), 12, 5)


@pytest.mark.parametrize("name", ["gelu", "fcnn"])
def test_moments_estimate_the_traces_of_powers(name):
    risk, hessian = risk_of(name), dense_hessian(name).numpy()
    found = spectral_density(risk, probes=100, steps=4)
    for power in range(1, 8):
        moments = found.moments(power)
        exact = float(np.trace(np.linalg.matrix_power(hessian, power))) / len(hessian)
        assert abs(moments.mean() - exact) < 4 * moments.std(ddof=1) / math.sqrt(100)


def test_all_steps_find_the_eigenvalues_and_end_where_the_space_does():
    """Five examples of four classes: a rank of 15 at most, and zero, for 84 weights."""
    torch.manual_seed(0)
    model = torch.nn.Linear(20, 4).double()
    x, y = torch.randn(5, 20, dtype=torch.float64), torch.randint(4, (5,))
    hessian = torch.autograd.functional.hessian(
        lambda w: torch.nn.functional.cross_entropy(x @ w[:80].view(4, 20).T + w[80:], y),
        torch.cat([p.detach().flatten() for p in model.parameters()]),
    )
    values = np.linalg.eigvalsh(hessian.numpy())
    found = spectral_density(Risk(model, torch.nn.CrossEntropyLoss(), [(x, y)]), probes=2, steps=80)
    for nodes, weights in zip(found.nodes, found.weights, strict=True):
        assert 16 <= len(nodes) < 20  # Rounding may make it a vector longer.
        assert nodes[-15:] == pytest.approx(values[-15:], rel=1e-8)
        assert nodes[:-15] == pytest.approx(0, abs=1e-12)
        assert weights.sum() == pytest.approx(1, rel=1e-12)


def test_density_is_smooth_and_integrates_to_one():
    found = spectral_density(risk_of("gelu"), probes=2, steps=10)
    low, high = min(map(min, found.nodes)), max(map(max, found.nodes))
    width = (high - low) / 100
    grid = np.linspace(low - 10 * width, high + 10 * width, 4001)
    density = found.at(grid, width)
    assert float(density.sum() * (grid[1] - grid[0])) == pytest.approx(1, rel=1e-6)
    assert float((grid * density).sum() * (grid[1] - grid[0])) == pytest.approx(found.moments(1).mean(), rel=1e-6)


@pytest.mark.parametrize("key", ["probes", "steps"])
def test_too_few(key):
    with pytest.raises(ValueError, match=f"{key}=0: must be at least 1"):
        spectral_density(risk_of("fcnn"), **{key: 0})
    with pytest.raises(ValueError, match="width=0: must be above 0"):
        spectral_density(risk_of("fcnn"), probes=1, steps=1).at(np.zeros(1), 0)
