"""The gradient's norm and its signal-to-noise ratio, against the examples' gradients written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fsbench.sharpness import Refused, Risk, gradient_norm, gradient_snr
from sharpness.derivatives.test_hessian_operator import state_of
from sharpness.networks import CLASSES, NETWORKS, SMOOTH, batches, by_tensor, risk_of
from sharpness.test_fisher_metrics import LOSSES, rows

ALL = [*NETWORKS, *SMOOTH]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ALL)
def test_norm_is_that_of_the_mean_of_the_rows(name, loss) -> None:
    risk = risk_of(name, LOSSES[loss])
    before = state_of(risk.model)
    mean = rows(risk).mean(0)
    found = gradient_norm(risk)
    assert found.value == pytest.approx(float(mean.norm()), rel=1e-10)
    expected = {name: float(part.norm()) for name, part in by_tensor(risk, mean).items()}
    assert found.per_layer == pytest.approx(expected, rel=1e-9, abs=1e-14)
    assert (found.exact, found.stderr, found.samples) == (True, 0.0, 21)
    assert state_of(risk.model) == before


def ratios(j: Tensor) -> Tensor:
    """mean^2 / variance of each column of (N, W), and 0 where all of it is zero."""
    varies = j.abs().sum(0) > 0
    return torch.where(varies, j.mean(0).square() / torch.where(varies, j.var(0, correction=0), 1.0), 0.0)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ALL)
def test_ratio_is_that_of_the_rows(name, loss) -> None:
    risk = risk_of(name, LOSSES[loss])
    before = state_of(risk.model)
    j = rows(risk)
    weights = int((j.abs().sum(0) > 0).sum())
    found = gradient_snr(risk)
    assert found.value == pytest.approx(float(ratios(j).sum()) / weights, rel=1e-8)
    expected = {name: float(part.sum()) / weights for name, part in by_tensor(risk, ratios(j)).items()}
    assert found.per_layer == pytest.approx(expected, rel=1e-8)
    left = j.shape[1] - weights
    assert found.details["left out"] == left
    notes = (f"{left} weights have a gradient of zero for every example and are left out.",) if left else ()
    assert found.notes == notes
    assert (found.exact, found.stderr, found.samples) == (True, 0.0, 21)
    assert state_of(risk.model) == before


def test_some_weights_are_left_out_of_the_mean() -> None:
    assert gradient_snr(risk_of("unused")).details["left out"] >= 3 * 2 + 2


def test_single_precision_gives_the_same() -> None:
    expected = gradient_snr(risk_of("lenet"))
    data = [(x.float(), y) for x, y in batches()]
    found = gradient_snr(Risk(NETWORKS["lenet"]().float(), nn.functional.cross_entropy, data))
    assert found.value == pytest.approx(expected.value, rel=1e-4)


def test_a_single_example_has_no_noise() -> None:
    x, y = batches()[0]
    risk = Risk(NETWORKS["fcnn"](), nn.functional.cross_entropy, [(x[:1], y[:1])])
    with pytest.raises(Refused, match="is the same for every example; its noise is zero"):
        gradient_snr(risk)


def test_a_weight_without_noise_is_named() -> None:
    """The loss falls with the bias at the same rate for every example."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()
    risk = Risk(model, lambda output, y: -output.sum(1).mean(), batches())
    with pytest.raises(Refused, match=r"the gradient of some weight of 1\.bias is the same for every example"):
        gradient_snr(risk)


def test_squares_below_the_precision_are_zero() -> None:
    """In single precision their digits are gone, so that a ratio of them would be chance."""
    data = [(x.float(), y) for x, y in batches()]
    risk = Risk(NETWORKS["fcnn"]().float(), lambda output, y: 1e-19 * nn.functional.cross_entropy(output, y), data)
    with pytest.raises(Refused, match="the gradient of every example is zero"):
        gradient_snr(risk)


def test_no_gradient_at_all() -> None:
    risk = risk_of("fcnn", lambda output, y: 0 * output.sum(1).mean())
    assert gradient_norm(risk).value == 0.0
    with pytest.raises(Refused, match="the gradient of every example is zero"):
        gradient_snr(risk)


def test_a_gradient_that_is_not_finite() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()
    risk = Risk(model, lambda output, y: (output.sum(1) - output.sum(1)).sqrt().mean(), batches())
    with pytest.raises(Refused, match="the gradient is not finite"):
        gradient_snr(risk)
