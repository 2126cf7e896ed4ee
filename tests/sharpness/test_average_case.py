"""The mean rise at noisy weights, against the same draws on one vector and against a quadratic's known mean."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from fsbench.sharpness import Refused, Risk, average_case_sharpness
from sharpness.derivatives.test_hessian_operator import hessian_of, state_of
from sharpness.networks import NETWORKS, SMOOTH, loss_at, risk_of


def draws_of(risk: Risk, seed: int, count: int) -> Tensor:
    """(count, W), tensor after tensor."""
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([
        torch.cat([torch.randn(p.shape, generator=generator, dtype=torch.float64).flatten() for p in risk.weights])
        for _ in range(count)
    ])  # fmt: skip


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_equals_the_same_draws_written_out(name, adaptive) -> None:
    risk = risk_of(name)
    before = state_of(risk.model)
    found = average_case_sharpness(risk, rho=0.3, adaptive=adaptive, draws=4, seed=7)
    assert state_of(risk.model) == before
    loss, w = loss_at(risk)
    with torch.no_grad():
        scale = 0.3 * (w.abs() if adaptive else torch.ones_like(w))
        rises = torch.stack([loss(w + scale * z) - loss(w) for z in draws_of(risk, 7, 4)])
        assert found.details["loss"] == pytest.approx(float(loss(w)), rel=1e-12)
    assert found.value == pytest.approx(float(rises.mean()), rel=1e-9)
    assert found.stderr == pytest.approx(float(rises.std()) / 2, rel=1e-9)
    assert (found.exact, found.samples, found.seed, found.degrees) == (False, 4, 7, 3)


def quadratic() -> Risk:
    """A squared error in eight weights."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(4, 2, bias=False).double().eval()
    model.weight.data = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    x = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(9, 2, generator=generator, dtype=torch.float64)
    return Risk(model, nn.functional.mse_loss, [(x[:5], y[:5]), (x[5:], y[5:])])


@pytest.mark.slow
@pytest.mark.parametrize("adaptive", [True, False])
def test_intervals_hold_the_known_mean_of_a_quadratic(adaptive) -> None:
    """E is rho^2 / 2 sum_j c_j^2 H_jj; 93 to 97 % of 200 intervals hold it."""
    risk = quadratic()
    _, w = loss_at(risk)
    c = w.abs() if adaptive else torch.ones_like(w)
    truth = 0.3**2 / 2 * float((c.square() * hessian_of(risk).diagonal()).sum())
    held, found = 0, []
    for seed in range(200):
        one = average_case_sharpness(risk, rho=0.3, adaptive=adaptive, seed=seed)
        low, high = one.interval()
        held += low < truth < high
        found.append(one.value)
    assert 186 <= held <= 194
    mean, error = torch.tensor(found).mean(), torch.tensor(found).std() / math.sqrt(200)
    assert abs(float(mean) - truth) < 3 * float(error)


def normalized(risk: Risk, length: float) -> Risk:
    """The loss of logits centred and scaled, written as a loss."""

    def loss(output: Tensor, y: Tensor) -> Tensor:
        o = output - output.mean(1, keepdim=True)
        return nn.functional.cross_entropy(length * o / o.norm(dim=1, keepdim=True), y)

    return risk.like(loss_fn=loss)


def test_logits_are_centred_and_scaled() -> None:
    risk = risk_of("resnet")
    before = state_of(risk.model)
    found = average_case_sharpness(risk, draws=3, logit_norm=2.0)
    assert state_of(risk.model) == before
    assert found.value == pytest.approx(average_case_sharpness(normalized(risk, 2.0), draws=3).value, rel=1e-10)
    # The scale of the last layer is gone; no noise on a bias there.
    expected = average_case_sharpness(risk_of("lenet_no_bias"), draws=3, logit_norm=1.0)
    scaled = risk_of("lenet_no_bias")
    scaled.model[-1].weight.data *= 7
    assert average_case_sharpness(scaled, draws=3, logit_norm=1.0).value == pytest.approx(expected.value, rel=1e-10)


def test_the_weights_come_back_after_an_exception() -> None:
    calls = 0

    def failing(output: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 40:
            raise ZeroDivisionError
        return nn.functional.cross_entropy(output, y)

    risk = risk_of("lenet", failing)
    before = state_of(risk.model)
    with pytest.raises(ZeroDivisionError):
        average_case_sharpness(risk)
    assert state_of(risk.model) == before


def test_no_noise_no_rise() -> None:
    found = average_case_sharpness(risk_of("lenet"), rho=0.0, draws=2)
    assert (found.value, found.stderr) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": -1.0}, "rho=-1.0: must be a finite number >= 0"),
        ({"draws": 1}, "draws=1: must be at least 2"),
        ({"logit_norm": 0.0}, "logit_norm=0.0: must be above 0"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        average_case_sharpness(risk_of("fcnn"), **arguments)


def test_logits_without_classes_have_no_length() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 1), nn.Flatten(0)).double().eval()
    risk = Risk(model, nn.functional.mse_loss, [(x, y.double()) for x, y in risk_of("fcnn").batches])
    with pytest.raises(Refused, match=r"\(examples, classes\) is needed"):
        average_case_sharpness(risk, logit_norm=1.0)
