"""The toy problem of Kim et al. 2022 against what the paper prints, and against geometry by hand."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fsbench.reproduce.computed import toy_problem

PRINTED = {"flat": (19.85, 29.95, 0.51, 0.001), "sharp": (-15.94, 13.46, 0.49, 0.006)}
LITERAL = {"flat": (19.81, 29.94), "sharp": (-16.80, 12.80)}


@pytest.mark.parametrize("name", PRINTED)
def test_minima_are_the_printed_ones(name) -> None:
    found = toy_problem.minima()[name]
    mu, sigma, loss, trace = PRINTED[name]
    assert found.theta.tolist() == pytest.approx([mu, sigma], abs=0.005)
    assert found.loss == pytest.approx(loss, abs=0.005)
    assert found.trace == pytest.approx(trace, abs=5e-4)
    assert float(toy_problem.gradient(found.theta).norm()) < 1e-12


@pytest.mark.parametrize("name", LITERAL)
def test_minima_of_the_formula_taken_literally(name) -> None:
    assert toy_problem.minima(literal=True)[name].theta.tolist() == pytest.approx(LITERAL[name], abs=0.005)


def test_loss_is_equation_15() -> None:
    theta = torch.tensor([[3.0, 7.0], [-12.0, 21.0]], dtype=torch.float64)
    terms = []
    for m, s, alpha, beta in toy_problem.COMPONENTS:
        divergence = kl_divergence(Normal(*theta.t()), Normal(*torch.tensor([m, s], dtype=torch.float64)))
        terms.append(alpha * torch.exp(-divergence / beta**2))
    torch.testing.assert_close(toy_problem.loss(theta, literal=True), -torch.log(sum(terms)))


@pytest.mark.parametrize(
    ("method", "semi_axes"),
    [("sam", (0.5, 0.5)), ("asam", (0.5 * 3.0, 0.5 * 7.0)), ("fsam", (0.5 * 7.0, 0.5 * 7.0 / 2**0.5))],
)
def test_perturbation_is_the_steepest_point_of_the_neighbourhood(method, semi_axes) -> None:
    """Of the circle, and of the ellipses eps1^2/mu^2 + eps2^2/sigma^2 and (eps1^2 + 2 eps2^2)/sigma^2 (section 3.1)."""
    step = toy_problem.trajectory(method, (3.0, 7.0), 0.5, 1)[0]
    angle = torch.linspace(0, 2 * torch.pi, 100_001, dtype=torch.float64)
    boundary = torch.stack([angle.cos() * semi_axes[0], angle.sin() * semi_axes[1]], dim=-1)
    best = boundary[(boundary @ toy_problem.gradient(step.theta)).argmax()]
    torch.testing.assert_close(step.eps, best, rtol=0, atol=1e-3)
    after = -toy_problem.LEARNING_RATE * toy_problem.gradient(step.theta + step.eps)
    torch.testing.assert_close(step.update, after)


@pytest.mark.parametrize(
    ("method", "start", "rho", "ends"),
    [
        ("sam", (-40.0, 35.0), 1.0, "sharp"),
        ("fsam", (-40.0, 35.0), 1.0, "flat"),
        ("asam", (0.0, 12.0), 0.1, "sharp"),
        ("asam", (0.0, 12.0), 0.3, "flat"),
        ("fsam", (0.0, 12.0), 1.0, "flat"),
    ],
)
def test_where_the_methods_end(method, start, rho, ends) -> None:
    last = toy_problem.trajectory(method, start, rho, 100)[-1]
    assert toy_problem.basin(last.theta + last.update) == ends


def test_a_perturbation_to_sigma_zero_ends_the_path() -> None:
    assert toy_problem.trajectory("asam", (0.0, 12.0), 1.0, 100) == []
