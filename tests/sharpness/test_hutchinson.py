"""Random probes of the trace: unbiased, with the spread that theory gives them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsbench.sharpness import Risk
from fsbench.sharpness.derivatives.hessian_operator import signs
from fsbench.sharpness.trace import hutchinson_trace
from sharpness.derivatives.test_hessian_operator import attention, dense_hessian, hessian_of, state_of
from sharpness.networks import CLASSES, batches, by_tensor, risk_of


@pytest.mark.parametrize("name", ["fcnn", "lenet", "resnet", "frozen", "unused", "tied", "tokens", "gelu"])
def test_value_and_standard_error(name):
    risk = risk_of(name)
    before = state_of(risk.model)
    estimate = hutchinson_trace(risk, probes=200, seed=1)
    assert state_of(risk.model) == before
    assert (estimate.samples, estimate.exact, estimate.seed, estimate.method) == (200, False, 1, "hutchinson")
    hessian = dense_hessian(name)
    squares = (hessian - hessian.diag().diag()).square()
    assert abs(estimate.value - float(hessian.trace())) < 4 * estimate.stderr
    # Of one probe the variance is 2 sum_{i != j} H_ij^2; that of 200 is met within their own spread.
    assert estimate.stderr == pytest.approx(float((2 * squares.sum() / 200).sqrt()), rel=0.25)
    diagonal = by_tensor(risk, hessian.diag())
    assert estimate.value == pytest.approx(sum(estimate.per_layer.values()), rel=1e-12)
    for d, layer in enumerate(risk.names):
        here = torch.cat([torch.full((p.numel(),), float(i == d)) for i, p in enumerate(risk.weights)]).double()
        # Both members of a pair within the tensor count, one of a pair with another tensor.
        spread = float((here @ squares @ (1 - here) + 2 * here @ squares @ here) / 200) ** 0.5
        assert estimate.details[f"stderr of {layer}"] == pytest.approx(spread, rel=0.35, abs=1e-15)
        assert abs(estimate.per_layer[layer] - float(diagonal[layer].sum())) <= 4 * spread


def test_one_probe_is_its_quadratic_form():
    risk = risk_of("tanh")
    hessian = dense_hessian("tanh")
    v = signs(len(hessian), torch.Generator().manual_seed(9)).double()
    assert set(v.tolist()) == {-1.0, 1.0}
    estimate = hutchinson_trace(risk, probes=1, seed=9)
    assert estimate.value == pytest.approx(float(v @ hessian @ v), rel=1e-9)
    assert estimate.stderr != estimate.stderr  # NaN: one draw tells nothing of it


@pytest.mark.parametrize("memory", [30_000, 100_000], ids=["one probe at a time", "some"])
def test_blocks_do_not_change_the_probes(memory):
    risk = risk_of("lenet")
    reference = hutchinson_trace(risk, probes=23, seed=2)
    risk.memory = memory
    blocked = hutchinson_trace(risk, probes=23, seed=2)
    assert blocked.value == pytest.approx(reference.value, rel=1e-12)
    assert blocked.stderr == pytest.approx(reference.stderr, rel=1e-12)


@pytest.mark.parametrize("memory", [2**30, 30_000])
def test_stops_on_the_standard_error(memory):
    risk = risk_of("lenet")
    risk.memory = memory
    estimate = hutchinson_trace(risk, probes=1000, tolerance=0.3, seed=3)
    assert estimate.stderr <= 0.3 * estimate.value
    assert 10 <= estimate.samples < 1000
    assert estimate.samples % 10 == 0
    assert estimate.notes == ()
    before = hutchinson_trace(risk, probes=estimate.samples - 10, seed=3)
    assert before.stderr > 0.3 * before.value


def test_says_that_the_tolerance_was_not_reached():
    estimate = hutchinson_trace(risk_of("lenet"), probes=15, tolerance=1e-6)
    assert estimate.samples == 15
    assert estimate.notes == ("The standard error is still above 1e-06 of the value after 15 probes.",)


def test_a_loss_linear_in_the_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()
    estimate = hutchinson_trace(Risk(model, lambda o, y: (o.sum(1) * y).mean(), batches()), probes=50, tolerance=0.1)
    assert (estimate.value, estimate.stderr, estimate.samples) == (0.0, 0.0, 10)


def test_a_transformer():
    risk = attention()
    estimate = hutchinson_trace(risk, probes=50)
    # Softmax attention has second derivatives of its own, so the reference is the Hessian.
    assert abs(estimate.value - float(hessian_of(risk).trace())) < 4 * estimate.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": 0}, "probes=0: must be at least 1"),
        ({"tolerance": -0.1}, "tolerance=-0.1: must be a finite number >= 0"),
        ({"tolerance": float("nan")}, "tolerance=nan"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        hutchinson_trace(risk_of("fcnn"), **arguments)
