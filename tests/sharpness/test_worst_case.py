"""The rise of the loss on the ellipsoids: the optimizers' own perturbation, and never less by ascent."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

from fsbench.geometries import Geometry
from fsbench.optim import ASAM, FSAM, SAM, SharpnessAware
from fsbench.sharpness.estimate import Refused
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.worst_case import worst_case_sharpness
from sharpness.derivatives.test_hessian_operator import hessian_of, state_of
from sharpness.networks import CLASSES, NETWORKS, SMOOTH, batches, loss_at, risk_of, whole

OPTIMIZERS = {
    "sam": (SAM, {"rho": 0.05}, {}),
    "asam": (ASAM, {"rho": 0.5, "eta": 0.01}, {}),
    "asam, all": (ASAM, {"rho": 0.3, "eta": 0.2, "scale": "all"}, {"rho": 0.3, "eta": 0.2, "scale": "all"}),
    "fsam": (FSAM, {"rho": 0.1, "eta": 1.0}, {}),
    "fsam, strong": (FSAM, {"rho": 1.0, "eta": 50.0}, {"rho": 1.0, "eta": 50.0}),
    "fsam, additive": (
        FSAM,
        {"rho": 0.02, "eta": 0.1, "form": "additive"},
        {"rho": 0.02, "eta": 0.1, "form": "additive"},
    ),
}


def second_loss(model: nn.Module, optimizer_class: type, options: dict) -> tuple[float, Tensor]:
    """The loss at w + eps, and eps, as the optimizer has them in a step on all of the data."""
    x, y = whole(batches())
    trained = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    optimizer = optimizer_class(trained, lr=0.0, **options)
    losses, points = [], []

    def closure() -> Tensor:
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        losses.append(float(loss.detach()))
        points.append(torch.cat([p.detach().flatten() for _, p in trained]))
        return loss.detach()

    optimizer.step(closure)
    return losses[1], points[1] - points[0]


@pytest.mark.parametrize("case", OPTIMIZERS)
@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_one_step_is_the_optimizers(name, case):
    optimizer_class, options, arguments = OPTIMIZERS[case]
    risk = risk_of(name)
    before = state_of(risk.model)
    found = worst_case_sharpness(risk, case.split(",")[0], **arguments)
    assert state_of(risk.model) == before
    loss, w = loss_at(risk)
    perturbed, eps = second_loss(copy.deepcopy(risk.model), optimizer_class, options)
    assert found.details["loss"] == pytest.approx(float(loss(w)), rel=1e-12)
    assert found.details["perturbed loss"] == pytest.approx(perturbed, rel=1e-10)
    assert found.value == pytest.approx(perturbed - float(loss(w)), rel=1e-8)
    assert found.details["length"] == pytest.approx(float(eps.norm()), rel=1e-9)
    assert found.details["radius"] == pytest.approx(options["rho"], rel=1e-9)
    assert (found.exact, found.samples, found.method) == (False, 21, "one step")
    assert math.isnan(found.stderr)
    assert found.notes == ("A lower bound of the maximum over the neighbourhood.",)


def test_a_geometry_of_ones_own():
    geometry = Geometry("ratio", lambda w, g, name, eta: w.norm() / (eta + g.norm()), {"rho": 0.3, "eta": 0.5})
    risk = risk_of("lenet")
    found = worst_case_sharpness(risk, geometry)
    perturbed, eps = second_loss(copy.deepcopy(risk.model), SharpnessAware, {"geometry": geometry})
    assert found.details["perturbed loss"] == pytest.approx(perturbed, rel=1e-10)
    assert found.details["length"] == pytest.approx(float(eps.norm()), rel=1e-9)
    assert (found.details["rho"], found.details["eta"]) == (0.3, 0.5)


def axes(risk: Risk, neighbourhood: str, eta: float) -> Tensor:
    """D^1/2, written out."""
    loss, w = loss_at(risk)
    if neighbourhood == "sam":
        return torch.ones_like(w)
    if neighbourhood == "fsam":
        return (1 + eta * torch.func.grad(loss)(w) ** 2).rsqrt()
    return torch.cat([
        p.detach().abs().flatten() + eta if "weight" in name else torch.ones(p.numel()).double()
        for name, p in risk.parameters.items()
    ])  # fmt: skip


@pytest.mark.parametrize(("neighbourhood", "eta"), [("sam", 0.0), ("asam", 0.1), ("fsam", 100.0)])
@pytest.mark.parametrize("name", ["fcnn_bias", "resnet", "tanh"])
def test_no_random_point_of_the_ellipsoid_rises_more(name, neighbourhood, eta):
    risk = risk_of(name)
    loss, w = loss_at(risk)
    half = axes(risk, neighbourhood, eta)
    options = {} if neighbourhood == "sam" else {"eta": eta}
    u = torch.randn(400, len(w), generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    u /= u.norm(dim=1, keepdim=True)
    gradient = torch.func.grad(loss)(w)
    # A point near the best one, so that the comparison is not with noise alone.
    near = half * gradient / (half * gradient).norm() + 0.2 * u
    u = torch.cat([u, near / near.norm(dim=1, keepdim=True)])
    # To first order at a small radius the value is rho ||D^1/2 g||, the maximum of the linear form.
    small = worst_case_sharpness(risk, neighbourhood, rho=1e-5, **options)
    assert small.value == pytest.approx(1e-5 * float((half * gradient).norm()), rel=2e-3)
    assert float((1e-5 * (u * half) @ gradient).max()) < small.value * (1 - 1e-3)
    # At a large one the climber beats every one of the points.
    with torch.no_grad():
        best = max(float(loss(w + 0.8 * half * v)) for v in u) - float(loss(w))
    climbed = worst_case_sharpness(risk, neighbourhood, rho=0.8, steps=20, **options)
    assert climbed.value > best
    assert climbed.details["radius"] <= 0.8 * (1 + 1e-12)


@pytest.mark.parametrize("neighbourhood", ["sam", "asam", "fsam"])
@pytest.mark.parametrize("name", ["lenet", "gelu", "frozen"])
def test_more_steps_never_give_less(name, neighbourhood):
    risk = risk_of(name)
    before = state_of(risk.model)
    found = [worst_case_sharpness(risk, neighbourhood, rho=1.0, steps=s) for s in (1, 2, 3, 5, 9)]
    assert state_of(risk.model) == before
    values = [f.value for f in found]
    assert values == sorted(values)
    assert values[-1] > values[0]
    assert all(f.details["one step"] == values[0] for f in found)
    assert found[-1].method == "ascent, 9 steps"


def quadratic(sign: int = 1) -> Risk:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()

    def squared_error(output: Tensor, y: Tensor) -> Tensor:
        return sign * (output - nn.functional.one_hot(y, CLASSES)).square().sum(1).mean()

    return Risk(model, squared_error, batches())


def test_ascent_reaches_the_known_maximum_of_a_quadratic():
    """max g'e + e'He/2 on ||e|| = rho is at e = (m - H)^-1 g with the m > lambda_max that gives this length."""
    risk, rho = quadratic(), 0.5
    loss, w = loss_at(risk)
    values, basis = torch.linalg.eigh(hessian_of(risk))
    g = basis.T @ torch.func.grad(loss)(w)
    low, high = float(values[-1]), float(values[-1] + g.norm() / rho)
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if float((g / (middle - values)).norm()) > rho else (low, middle)
    e = g / (high - values)
    maximum = float(g @ e + (values * e * e).sum() / 2)
    found = worst_case_sharpness(risk, rho=rho, steps=60)
    assert found.value == pytest.approx(maximum, rel=1e-6)
    assert found.value > 1.01 * found.details["one step"]


def test_ascent_comes_near_a_maximum_inside():
    """Minus a squared error that 73 weights a class fit exactly: its maximum 0 is within a large ball."""
    risk = quadratic(-1)
    found = worst_case_sharpness(risk, rho=20.0, steps=80)
    assert found.details["one step"] < 0
    assert -0.05 * abs(found.details["loss"]) < found.details["perturbed loss"] < 0
    assert found.details["radius"] < 20


def test_no_radius_no_rise():
    assert worst_case_sharpness(risk_of("lenet"), rho=0.0, steps=3).value == 0.0


def test_a_gradient_of_zero():
    model = NETWORKS["fcnn"]()
    with torch.no_grad():
        model[5].weight.zero_()
        model[1].weight.fill_(-1e9)
    risk = Risk(model, nn.functional.cross_entropy, [(x.abs(), y) for x, y in batches()])
    found = worst_case_sharpness(risk, steps=3)
    assert found.value == 0.0
    assert "The gradient at w is zero, so no direction was tried." in found.notes


def test_weights_come_back_after_an_exception():
    calls = 0

    def failing(output: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 18:
            raise ZeroDivisionError
        return nn.functional.cross_entropy(output, y)

    risk = risk_of("lenet", failing)
    before = state_of(risk.model)
    with pytest.raises(ZeroDivisionError):
        worst_case_sharpness(risk, steps=9)
    assert state_of(risk.model) == before


def test_a_gradient_that_is_not_finite_is_refused():
    risk = Risk(NETWORKS["fcnn"](), lambda o, y: (o.sum(1) - o.sum(1)).sqrt().mean(), batches())
    with pytest.raises(Refused, match="the gradient is not finite"):
        worst_case_sharpness(risk)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"neighbourhood": "gsam"}, "neighbourhood=gsam: must be one of sam, asam, fsam"),
        ({"rho": -1.0}, "rho=-1.0: must be a finite number >= 0"),
        ({"eta": 1.0}, "eta=1.0: the neighbourhood of sam has none"),
        ({"neighbourhood": "asam", "eta": math.inf}, "eta=inf: must be a finite number >= 0"),
        ({"neighbourhood": "fsam", "eta": 0.0, "form": "additive"}, "eta=0: must be > 0 in the additive form"),
        ({"neighbourhood": "fsam", "form": "other"}, "form=other: must be one of multiplicative, additive"),
        ({"neighbourhood": "asam", "scale": "none"}, "scale=none: must be one of weights, all"),
        ({"steps": 0}, "steps=0: must be at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        worst_case_sharpness(risk_of("fcnn"), **arguments)
