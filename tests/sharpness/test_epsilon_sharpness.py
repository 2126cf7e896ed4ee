"""The rise in Keskar's box, against every point of a grid and against the first step by hand."""

from __future__ import annotations

import math

import pytest
import torch

from fsbench.sharpness import Refused, epsilon_sharpness
from sharpness.derivatives.test_hessian_operator import state_of
from sharpness.networks import NETWORKS, SMOOTH, loss_at, risk_of
from sharpness.test_worst_case_apgd import best_of_grid, tiny


@pytest.mark.parametrize(("epsilon", "share"), [(1e-3, 1.0), (0.05, 1.0), (0.5, 0.99)])
def test_points_of_a_grid_are_no_higher(epsilon, share) -> None:
    """In a box as wide as that of 0.5 the search ends in a maximum a little below the largest."""
    risk = tiny()
    before = state_of(risk.model)
    found = epsilon_sharpness(risk, epsilon=epsilon, steps=60)
    assert state_of(risk.model) == before
    loss, w = loss_at(risk)
    best = 100 * best_of_grid(risk, epsilon * (w.abs() + 1), "linf", 7) / (1 + float(loss(w)))
    assert share * best * (1 - 1e-9) <= found.value <= best * 1.1
    assert found.details["loss"] == pytest.approx(float(loss(w)), rel=1e-12)
    rise = found.details["perturbed loss"] - found.details["loss"]
    assert found.value == pytest.approx(100 * rise / (1 + found.details["loss"]), rel=1e-12)
    assert (found.exact, found.samples, found.method) == (False, 11, "Auto-PGD, 60 steps")
    assert math.isnan(found.stderr)
    assert found.notes == ("A lower bound of the maximum over the box.",)


@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_one_step_is_to_the_corner_of_the_gradient(name) -> None:
    risk = risk_of(name)
    before = state_of(risk.model)
    found = epsilon_sharpness(risk, epsilon=1e-4, steps=1)
    assert state_of(risk.model) == before
    loss, w = loss_at(risk)
    sign = torch.func.grad(loss)(w).sign()
    with torch.no_grad():
        risen = loss(w + 1e-4 * (w.abs() + 1) * sign)
        assert found.value == pytest.approx(float(100 * (risen - loss(w)) / (1 + loss(w))), rel=1e-6)
    assert epsilon_sharpness(risk, epsilon=1e-4).value >= found.value


def test_a_loss_that_the_ratio_has_no_sense_for() -> None:
    risk = risk_of("fcnn", lambda output, y: output.sum(1).mean() - 3)
    with pytest.raises(Refused, match=r"rises are relative to 1 \+ L, which has to be above 0"):
        epsilon_sharpness(risk)


def test_a_gradient_of_zero() -> None:
    found = epsilon_sharpness(risk_of("fcnn", lambda output, y: 0 * output.sum(1).mean()))
    assert found.value == 0.0
    assert found.notes[-1] == "The gradient at w is zero, so no direction was tried."


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": -1.0}, "epsilon=-1.0: must be a finite number >= 0"),
        ({"steps": 0}, "steps=0: must be at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        epsilon_sharpness(risk_of("fcnn"), **arguments)
