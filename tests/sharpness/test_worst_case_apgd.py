"""The maximum that Auto-PGD finds, against brute force on tiny networks and against known maxima."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from measuring.test_sharpness_record import config
from torch import Tensor, nn

from fsbench.geometries import BALLS
from fsbench.measuring.measures import MEASURES
from fsbench.sharpness import Refused, Risk, worst_case_sharpness, worst_case_sharpness_apgd
from fsbench.sharpness.auto_pgd import _checkpoints
from sharpness.derivatives.test_hessian_operator import state_of
from sharpness.networks import NETWORKS, SMOOTH, loss_at, risk_of, whole
from sharpness.test_average_case import normalized


def tiny(hidden: bool = True) -> Risk:
    """Six weights: few enough to try every point of a grid."""
    generator = torch.Generator().manual_seed(2)
    layers = [nn.Linear(1, 2, bias=False), nn.Tanh(), nn.Linear(2, 2, bias=False)] if hidden else [nn.Linear(2, 2)]
    model = nn.Sequential(*layers).double().eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=torch.float64)
    x = torch.randn(11, 1 if hidden else 2, generator=generator, dtype=torch.float64)
    y = torch.randint(2, (11,), generator=generator)
    return Risk(model, nn.functional.cross_entropy, [(x[:6], y[:6]), (x[6:], y[6:])])


def group(risk: Risk, first: int, last: int) -> Risk:
    x, y = whole(list(risk.batches))
    return risk.like(batches=[(x[first:last], y[first:last])])


def best_of_grid(risk: Risk, scale: Tensor, ball: str, points: int) -> float:
    """The largest rise over a grid in the cube; for l2, over the grid's directions at full length and shorter."""
    loss, w = loss_at(risk)
    axis = torch.linspace(-1, 1, points, dtype=torch.float64)
    u = torch.cartesian_prod(*[axis] * len(w))
    if ball == "l2":
        u = u[u.norm(dim=1) > 0]
        u = u / u.norm(dim=1, keepdim=True)
        u = torch.cat([u, 0.7 * u, 0.4 * u])
    with torch.no_grad():
        return max(float(torch.vmap(loss)(w + scale * part).max()) for part in u.split(50_000)) - float(loss(w))


def algorithm(risk: Risk, c: Tensor, ball: str, rho: float, steps: int) -> float:
    """The loss that algorithm 1 of Croce & Hein ends with, on one vector u = eps / c, as it is printed."""
    loss, w = loss_at(risk)

    def climbed(u: Tensor) -> tuple[float, Tensor]:
        return float(loss(w + c * u)), c * torch.func.grad(loss)(w + c * u)

    def projected(u: Tensor) -> Tensor:
        return u.clamp(-rho, rho) if ball == "linf" else u * min(1.0, rho / float(u.norm()))

    shares = [0.0, 0.22]
    while shares[-1] < 1:
        shares.append(shares[-1] + max(shares[-1] - shares[-2] - 0.03, 0.06))
    checkpoints = [math.ceil(round(share * steps, 9)) for share in shares]
    points, eta = [torch.zeros_like(w)], 2 * rho
    values = [climbed(points[0])[0]]
    best, last = (values[0], points[0]), (0, eta, values[0])
    x = old = points[0]
    for k in range(1, steps + 1):
        gradient = climbed(x)[1]
        z = projected(x + eta * (gradient.sign() if ball == "linf" else gradient / gradient.norm()))
        new = z if k == 1 else projected(x + 0.75 * (z - x) + 0.25 * (x - old))
        old, x = x, new
        values.append(climbed(x)[0])
        risen = [values[i + 1] > values[i] for i in range(last[0], k)]
        best = max(best, (values[-1], x), key=lambda one: one[0])
        if k in checkpoints:
            stuck = sum(risen) < 0.75 * (k - last[0]) or (eta == last[1] and best[0] == last[2])
            last = (k, eta, best[0])
            if stuck:
                eta, x, values[-1] = eta / 2, best[1], best[0]
    return best[0]


@pytest.mark.parametrize("steps", [2, 5, 9, 20])
@pytest.mark.parametrize(("ball", "rho"), [("linf", 0.05), ("linf", 0.8), ("l2", 0.1), ("l2", 1.5)])
def test_it_is_the_algorithm(ball, rho, steps) -> None:
    risk = tiny()
    _, w = loss_at(risk)
    found = worst_case_sharpness_apgd(risk, rho=rho, ball=ball, group_size=11, steps=steps)
    expected = algorithm(risk, w.abs(), ball, rho, steps) - risk.value()
    assert found.value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize(("ball", "rho"), [("linf", 0.05), ("linf", 0.8), ("l2", 0.1), ("l2", 1.5)])
def test_no_point_of_a_grid_is_higher(ball, rho, adaptive) -> None:
    """On six weights, groups of four of eleven examples: the mean of the groups' own maxima, a rest left out."""
    risk = tiny()
    before = state_of(risk.model)
    found = worst_case_sharpness_apgd(risk, rho=rho, ball=ball, adaptive=adaptive, group_size=4, steps=60)
    assert state_of(risk.model) == before
    _, w = loss_at(risk)
    scale = rho * (w.abs() if adaptive else torch.ones_like(w))
    best = [best_of_grid(group(risk, first, first + 4), scale, ball, 7) for first in (0, 4)]
    # As high as every point of the grid, and not higher than finer search would come.
    assert found.value >= sum(best) / 2 * (1 - 1e-9)
    assert found.value <= sum(best) / 2 * 1.1
    assert found.details["radius"] <= rho * (1 + 1e-12)
    assert found.details["loss"] == pytest.approx(sum(group(risk, f, f + 4).value() for f in (0, 4)) / 2, rel=1e-12)
    assert found.example_stderr == pytest.approx(abs(best[0] - best[1]) / 2, rel=0.2)
    assert math.isnan(found.stderr)
    assert (found.exact, found.samples, found.method) == (False, 2, "Auto-PGD, 60 steps, groups of 4")
    assert found.notes == (
        "A lower bound of the maximum over the neighbourhood.",
        "3 examples at the end make no whole group and are left out.",
    )


@pytest.mark.parametrize(("rho", "largest"), [(0.05, True), (0.5, False)])
def test_a_convex_loss_ends_in_a_corner(rho, largest) -> None:
    """Of the box; all 64 of a logistic regression are tried. In the wide box the search ends in a lower one."""
    risk = tiny(hidden=False)
    loss, w = loss_at(risk)
    corners = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=len(w))), dtype=torch.float64)
    with torch.no_grad():
        rises = torch.vmap(loss)(w + rho * w.abs() * corners) - loss(w)
    found = worst_case_sharpness_apgd(risk, rho=rho, group_size=11)
    assert float((rises - found.value).abs().min()) < 1e-12
    assert (found.value == pytest.approx(float(rises.max()), rel=1e-12)) is largest
    assert found.details["radius"] == rho


@pytest.mark.parametrize("name", ["lenet", "resnet", "gelu"])
def test_one_step_is_the_gradients(name) -> None:
    """rho c sign(g) in the box, rho c (c g) / ||c g|| in the ellipsoid; the step of 2 rho is put back."""
    risk = risk_of(name)
    loss, w = loss_at(risk)
    slope = w.abs() * torch.func.grad(loss)(w)
    for ball, u in (("linf", slope.sign()), ("l2", slope / slope.norm())):
        found = worst_case_sharpness_apgd(risk, rho=0.01, ball=ball, group_size=21, steps=1)
        with torch.no_grad():
            assert found.value == pytest.approx(float(loss(w + 0.01 * w.abs() * u) - loss(w)), rel=1e-8)


@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_the_sphere_is_that_of_sam(name) -> None:
    """Without scaling, all examples at a time: no less than the ascent of the optimizers' neighbourhood by 2 %."""
    risk = risk_of(name)
    ascent = worst_case_sharpness(risk, "sam", rho=0.5, steps=40)
    found = worst_case_sharpness_apgd(risk, rho=0.5, ball="l2", adaptive=False, group_size=21, steps=40)
    assert found.value > 0.98 * ascent.value
    assert found.details["radius"] <= 0.5 * (1 + 1e-12)


def test_logits_are_centred_and_scaled() -> None:
    risk = risk_of("resnet")
    options = {"rho": 0.1, "group_size": 7, "steps": 5}
    before = state_of(risk.model)
    found = worst_case_sharpness_apgd(risk, logit_norm=2.0, **options)
    assert state_of(risk.model) == before
    assert found.value == pytest.approx(worst_case_sharpness_apgd(normalized(risk, 2.0), **options).value, rel=1e-9)


def test_checkpoints_are_the_papers() -> None:
    """p = 0.22, 0.41, 0.57, 0.70, 0.80, 0.87, 0.93, 0.99."""
    assert sorted(_checkpoints(100)) == [22, 41, 57, 70, 80, 87, 93, 99]
    assert sorted(_checkpoints(20)) == [5, 9, 12, 14, 16, 18, 19, 20]


def test_default_radii_are_those_of_the_command() -> None:
    found = {ball: MEASURES["worst_case_apgd"].arguments(config(f"ball={ball}"))["rho"] for ball in BALLS}
    assert found == {"l2": 0.5, "linf": 0.001}


def test_no_radius_no_rise() -> None:
    assert worst_case_sharpness_apgd(risk_of("lenet"), rho=0.0, group_size=7).value == 0.0


def test_a_gradient_of_zero() -> None:
    risk = risk_of("fcnn", lambda output, y: 0 * output.sum(1).mean())
    found = worst_case_sharpness_apgd(risk, group_size=10)
    assert found.value == 0.0
    assert found.notes[-1] == "The gradient of 2 groups is zero, so no direction was tried there."


def test_weights_come_back_after_an_exception() -> None:
    calls = 0

    def failing(output: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise ZeroDivisionError
        return nn.functional.cross_entropy(output, y)

    risk = risk_of("lenet", failing)
    before = state_of(risk.model)
    with pytest.raises(ZeroDivisionError):
        worst_case_sharpness_apgd(risk, group_size=21)
    assert state_of(risk.model) == before


REFUSED = {
    "few examples": (risk_of("fcnn").loss_fn, {}, "group_size=128: there are 21 examples only"),
    "no gradient": (lambda o, y: (o.sum(1) - o.sum(1)).sqrt().mean(), {"group_size": 7}, "the gradient is not finite"),
}


@pytest.mark.parametrize(("loss", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(loss, arguments, message) -> None:
    with pytest.raises(Refused, match=message):
        worst_case_sharpness_apgd(risk_of("fcnn", loss), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": math.inf}, "rho=inf: must be a finite number >= 0"),
        ({"ball": "l1"}, "ball=l1: must be one of l2, linf"),
        ({"steps": 0}, "steps=0: must be at least 1"),
        ({"group_size": 0}, "group_size=0: must be at least 1"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        worst_case_sharpness_apgd(risk_of("fcnn"), **{"group_size": 7, **arguments})
