"""One derivative for each weight, against the dense Hessian."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsbench.sharpness import Risk, hessian_diagonal, hessian_trace
from sharpness.derivatives.test_hessian_operator import dense_hessian, state_of
from sharpness.networks import CLASSES, batches, by_tensor, risk_of


@pytest.mark.parametrize("name", ["fcnn", "lenet", "resnet", "frozen", "unused", "tokens", "gelu"])
def test_diagonal(name):
    risk = risk_of(name)
    before = state_of(risk.model)
    diagonal = hessian_diagonal(risk, "baseline")
    assert state_of(risk.model) == before
    assert (diagonal.exact, diagonal.stderr, diagonal.samples, diagonal.method) == (True, None, 21, "baseline")
    reference = by_tensor(risk, dense_hessian(name).diag())
    assert list(diagonal.values) == list(reference)
    for layer, value in diagonal.values.items():
        torch.testing.assert_close(value, reference[layer], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["lenet", "tokens"])
def test_trace(name):
    risk = risk_of(name)
    risk.memory = 60_000  # in pieces
    estimate = hessian_trace(risk, "baseline")
    reference = dense_hessian(name).diag()
    assert estimate.value == pytest.approx(float(reference.sum()), rel=1e-9)
    assert (estimate.exact, estimate.stderr, estimate.samples) == (True, 0.0, 21)
    for layer, part in by_tensor(risk, reference).items():
        assert estimate.per_layer[layer] == pytest.approx(float(part.sum()), rel=1e-9, abs=1e-13)


def test_a_loss_linear_in_the_weights():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()
    assert hessian_trace(Risk(model, lambda o, y: (o.sum(1) * y).mean(), batches()), "baseline").value == 0.0
