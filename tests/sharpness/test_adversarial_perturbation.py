"""Loss and accuracy along the gradient, against copies of the network moved by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fsbench.sharpness.adversarial_perturbation import adversarial_perturbation
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.risk import Risk
from sharpness.derivatives.test_hessian_operator import state_of
from sharpness.networks import CLASSES, NETWORKS, SMOOTH, batches, loss_at, risk_of, whole


def moved(risk: Risk, alpha: float) -> nn.Module:
    loss, w = loss_at(risk)
    gradient = torch.func.grad(loss)(w)
    model = copy.deepcopy(risk.model)
    trained = [p for p in model.parameters() if p.requires_grad]
    nn.utils.vector_to_parameters(w + alpha * gradient / gradient.norm(), trained)
    return model


@pytest.mark.parametrize("other", [False, True], ids=["on the risk", "on other examples"])
@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_loss_and_accuracy(name, other):
    risk = risk_of(name)
    before = state_of(risk.model)
    data = batches((4, 4, 3, 30))[2:] if other else batches()
    found = adversarial_perturbation(risk, [0.5, 0.1, 3], data if other else None)
    assert state_of(risk.model) == before
    assert [f.alpha for f in found] == [0, 0.5, 0.1, 3]
    x, y = whole(data)
    for at in found:
        output = moved(risk, at.alpha)(x).detach()
        assert at.loss == pytest.approx(float(nn.functional.cross_entropy(output, y)), rel=1e-9)
        assert at.accuracy == pytest.approx(float((output.argmax(1) == y).double().mean()), rel=1e-12)
    assert other or found[1].loss > found[0].loss


def test_alpha_zero_is_there_once():
    assert [f.alpha for f in adversarial_perturbation(risk_of("fcnn"), [1, 0, 2])] == [0, 1, 2]
    published = [f.alpha for f in adversarial_perturbation(risk_of("fcnn"))]
    assert published[:2] == [0, 0.1]
    assert published[-1] == 5


def test_accuracy_needs_classes():
    def squared_error(output: Tensor, y: Tensor) -> Tensor:
        return (output - y).square().mean()

    data = [(x, nn.functional.one_hot(y, CLASSES).double()) for x, y in batches()]
    found = adversarial_perturbation(Risk(NETWORKS["fcnn"](), squared_error, data), [1])
    assert all(math.isnan(f.accuracy) and math.isfinite(f.loss) for f in found)


def test_weights_come_back_after_an_exception():
    class Failing(list):
        passes = 0

        def __iter__(self):
            self.passes += 1
            if self.passes == 5:
                raise ZeroDivisionError
            return super().__iter__()

    risk = risk_of("resnet")
    before = state_of(risk.model)
    with pytest.raises(ZeroDivisionError):
        adversarial_perturbation(risk, [0.3, 0.6, 0.9], Failing(batches()))
    assert state_of(risk.model) == before


def test_a_gradient_of_zero_has_no_direction():
    model = NETWORKS["fcnn"]()
    with torch.no_grad():
        model[5].weight.zero_()
        model[1].weight.fill_(-1e9)
    risk = Risk(model, nn.functional.cross_entropy, [(x.abs(), y) for x, y in batches()])
    with pytest.raises(Refused, match=r"has no direction: its norm is 0\.0"):
        adversarial_perturbation(risk)


@pytest.mark.parametrize("alpha", [-1.0, math.nan, math.inf])
def test_bad_alphas(alpha):
    with pytest.raises(ValueError, match="alphas: must be finite numbers >= 0"):
        adversarial_perturbation(risk_of("fcnn"), [1, alpha])
