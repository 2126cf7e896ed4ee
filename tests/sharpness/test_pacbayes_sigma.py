"""The noise that the error bears, against the same draws on one vector and a linear classifier's known error."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.special import ndtr
from torch import Tensor, nn

from fsbench.sharpness import Refused, Risk, pacbayes_sigma
from sharpness.derivatives.test_hessian_operator import state_of
from sharpness.networks import NETWORKS, SMOOTH, batches, by_tensor, loss_at, risk_of, whole
from sharpness.test_average_case import draws_of


def fitted(name: str) -> Risk:
    """With the network's own answers for labels: no error at w."""
    risk = risk_of(name)
    with torch.no_grad():
        return risk.like(batches=[(x, risk.model(x).argmax(1)) for x, _ in risk.batches])


@pytest.mark.parametrize("magnitude_aware", [False, True])
@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_rises_at_the_bracket_are_those_of_the_draws(name, magnitude_aware) -> None:
    risk = fitted(name)
    before = state_of(risk.model)
    found = pacbayes_sigma(risk, magnitude_aware=magnitude_aware, draws=8, seed=5)
    assert state_of(risk.model) == before
    _, w = loss_at(risk)
    x, y = whole(list(risk.batches))
    fixed = {key: p.detach() for key, p in risk.model.named_parameters() if key not in risk.parameters}
    fixed |= dict(risk.model.named_buffers())

    def error(at: Tensor) -> float:
        logits = torch.func.functional_call(risk.model, {**fixed, **by_tensor(risk, at)}, (x,))
        return float((logits.argmax(1) != y).double().mean())

    def rises(sigma: float) -> Tensor:
        scale = (sigma**2 * w.square() + 1e-6).sqrt() if magnitude_aware else sigma
        return torch.tensor([error(w + scale * z) for z in draws_of(risk, 5, 8)], dtype=torch.float64)

    low, high = found.details["lower"], found.details["upper"]
    with torch.no_grad():
        at_low, at_high = rises(low), rises(high)
    assert at_low.mean() <= 0.1 < at_high.mean()
    assert low < high <= 1.13 * low
    share = (0.1 - at_low.mean()) / (at_high.mean() - at_low.mean())
    assert found.value == pytest.approx(float(low + share * (high - low)), rel=1e-9)
    at_sigma = at_low + share * (at_high - at_low)
    slope = (at_high.mean() - at_low.mean()) / (high - low)
    assert found.stderr == pytest.approx(float(at_sigma.std() / math.sqrt(8) / slope), rel=1e-9)
    assert found.details["flatness"] == pytest.approx(found.value**-2, rel=1e-12)
    assert found.details["error"] == 0.0
    assert (found.exact, found.samples, found.seed, found.degrees) == (False, 8, 5, 7)


def linear() -> tuple[Risk, Tensor]:
    """A linear classifier of two classes, and each example's margin over ||x||."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Linear(6, 2, bias=False).double().eval()
    model.weight.data = torch.randn(2, 6, generator=generator, dtype=torch.float64)
    x = torch.randn(40, 6, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        logits = model(x)
    y = logits.argmax(1)
    risk = Risk(model, nn.functional.cross_entropy, [(x[:25], y[:25]), (x[25:], y[25:])])
    return risk, (logits[:, 1] - logits[:, 0]).abs() / x.norm(dim=1)


@pytest.mark.slow
def test_intervals_hold_the_known_sigma() -> None:
    """The margin of x changes by N(0, 2 sigma^2 ||x||^2); 93 to 97 % of 200 intervals hold the sigma of that."""
    risk, margins = linear()
    truth = brentq(lambda sigma: ndtr(-(margins / (math.sqrt(2) * sigma)).numpy()).mean() - 0.1, 1e-3, 10)
    held, values = 0, []
    for seed in range(200):
        found = pacbayes_sigma(risk, draws=50, seed=seed)
        low, high = found.interval()
        held += low < truth < high
        values.append(found.value)
    assert 186 <= held <= 194
    assert sum(values) / 200 == pytest.approx(truth, rel=0.02)


def test_sigma_of_the_magnitudes_is_that_of_the_network_at_another_scale() -> None:
    """Noise relative to each weight: a layer ten times as large, the next a tenth, bears the same."""
    risk = fitted("fcnn")
    expected = pacbayes_sigma(risk, magnitude_aware=True, draws=20)
    with torch.no_grad():
        risk.model[1].weight.mul_(10)
        risk.model[3].weight.div_(10)
    found = pacbayes_sigma(risk, magnitude_aware=True, draws=20)
    assert found.value == pytest.approx(expected.value, rel=0.1)  # the least noise is not relative
    assert pacbayes_sigma(risk, draws=20).value < 0.5 * pacbayes_sigma(fitted("fcnn"), draws=20).value


def test_an_error_that_can_not_rise_is_refused() -> None:
    risk = fitted("fcnn")
    wrong = risk.like(batches=[(x, (y + 1) % 4) for x, y in risk.batches])
    with pytest.raises(Refused, match=r"an error of 1 does not rise by 0\.1, however large the noise"):
        pacbayes_sigma(wrong, draws=2)


def test_noise_that_is_too_much_from_the_start_is_refused() -> None:
    risk = fitted("fcnn")
    with torch.no_grad():
        for p in risk.weights:
            p.mul_(1e-6)
    with pytest.raises(Refused, match=r"the error rises by more than 0\.1 with the least noise"):
        pacbayes_sigma(risk, magnitude_aware=True, draws=10)


def test_labels_that_are_no_classes_are_refused() -> None:
    data = [(x, torch.zeros(len(x), 4, dtype=torch.float64)) for x, _ in batches()]
    risk = Risk(NETWORKS["fcnn"](), nn.functional.mse_loss, data)
    with pytest.raises(Refused, match="the labels are no classes, so there is no error rate"):
        pacbayes_sigma(risk)


def test_the_weights_come_back_after_an_exception() -> None:
    risk = fitted("lenet")
    before, calls = state_of(risk.model), 0

    def failing(*_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise ZeroDivisionError

    handle = risk.model.register_forward_hook(failing)
    with pytest.raises(ZeroDivisionError):
        pacbayes_sigma(risk)
    handle.remove()
    assert state_of(risk.model) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"draws": 1}, "draws=1: must be at least 2"),
        ({"rise": 1.0}, "rise=1.0: must lie between 0 and 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        pacbayes_sigma(risk_of("fcnn"), **arguments)
