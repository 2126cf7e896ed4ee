"""Every optimizer equals a dense float64 reference: its perturbation and three steps of training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import pytest
import torch
from oracles import Oracle, ellipsoid_maximiser
from problems import NETWORKS, Closure, batches
from torch import Tensor, nn

from fsbench.optim import ASAM, FSAM, SAM, Descent, FisherTrace, perturbed_weights

SGD = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}


@dataclass
class Case:
    id: str
    optimizer: type[Descent]
    options: dict[str, Any]
    d: Callable[[Oracle, Tensor, Tensor, Tensor, Tensor], Tensor] = field(repr=False, default=None)


def ones(oracle: Oracle, g: Tensor, x: Tensor, y: Tensor, sampled: Tensor) -> Tensor:
    return torch.ones_like(g)


def t_squared(eta: float, scaled: Callable[[str], bool]):
    def d(oracle: Oracle, g: Tensor, x: Tensor, y: Tensor, sampled: Tensor) -> Tensor:
        mask = oracle.by_name(scaled).bool()
        t = torch.where(mask, oracle.w.abs() + eta, torch.ones_like(g))
        return t**2

    return d


def inverse_fisher(eta: float, form: str = "multiplicative", fisher: str = "batch"):
    def d(oracle: Oracle, g: Tensor, x: Tensor, y: Tensor, sampled: Tensor) -> Tensor:
        if fisher == "batch":
            f = g * g
        else:
            labels = sampled if fisher == "true" else y
            singles = [
                oracle.gradient(oracle.w, x[i : i + 1], labels[i : i + 1], batchnorm_eval=True)[1]
                for i in range(len(x))
            ]
            f = torch.stack(singles).square().mean(0)
        return 1 / (f + eta) if form == "additive" else 1 / (1 + eta * f)

    return d


def is_weight(name: str) -> bool:
    return "weight" in name


CASES = [
    Case("sam", SAM, {"rho": 0.2}, ones),
    Case("sam-m3", SAM, {"rho": 0.2, "m": 3}, ones),
    Case("asam", ASAM, {"rho": 0.7, "eta": 0.05}, t_squared(0.05, is_weight)),
    Case("asam-all", ASAM, {"rho": 0.7, "eta": 0.05, "scale": "all"}, t_squared(0.05, lambda name: True)),
    Case("fsam", FSAM, {"rho": 0.3, "eta": 40.0}, inverse_fisher(40.0)),
    Case("fsam-additive", FSAM, {"rho": 0.3, "eta": 0.01, "form": "additive"}, inverse_fisher(0.01, "additive")),
    Case("fsam-per-example", FSAM, {"rho": 0.3, "eta": 9.0, "fisher": "per_example"}, inverse_fisher(9.0, fisher="pe")),
    Case("fsam-true", FSAM, {"rho": 0.3, "eta": 9.0, "fisher": "true"}, inverse_fisher(9.0, fisher="true")),
    Case("fsam-natural", FSAM, {"rho": 0.3, "eta": 40.0, "natural": True}, inverse_fisher(40.0)),
    Case("asam-natural", ASAM, {"rho": 0.3, "eta": 0.1, "natural": True}, t_squared(0.1, is_weight)),
    Case("fsam-natural-m3", FSAM, {"rho": 0.3, "eta": 40.0, "natural": True, "m": 3}, inverse_fisher(40.0)),
    Case("fsam-per-example-m3", FSAM, {"rho": 0.3, "eta": 9.0, "fisher": "per_example", "m": 3},
         inverse_fisher(9.0, fisher="pe")),
    Case("fsam-clipped", FSAM, {"rho": 0.3, "eta": 40.0, "max_norm": 0.05}, inverse_fisher(40.0)),
    Case("sam-shorter-than-its-clip", SAM, {"rho": 0.2, "max_norm": 1e3}, ones),
]  # fmt: skip


def sharpness_aware_gradient(oracle: Oracle, case: Case, x: Tensor, y: Tensor, sampled: Tensor) -> tuple:
    m = case.options.get("m", len(x))
    loss, total, eps = 0.0, 0.0, None
    for start in range(0, len(x), m):
        part = slice(start, start + m)
        share = len(x[part]) / len(x)
        part_loss, g = oracle.gradient(oracle.w, x[part], y[part], keep_statistics=True)
        d = case.d(oracle, g, x[part], y[part], sampled[part])
        eps = ellipsoid_maximiser(g, d, case.options["rho"])
        _, descent = oracle.gradient(oracle.w + eps, x[part], y[part])
        total = total + share * (d * descent if case.options.get("natural") else descent)
        loss = loss + share * part_loss
    clip = case.options.get("max_norm")
    if clip is not None and total.norm() > clip:
        # PyTorch's clipping keeps 1e-6 in the denominator.
        total = total * clip / (total.norm() + 1e-6)
    return loss, total, eps


@pytest.fixture(params=["parameters-point-elsewhere", "parameters-move-in-place"])
def both_ways_there(request, monkeypatch) -> None:
    """The way of a CPU, and that of every other device, which works on a CPU too."""
    if request.param == "parameters-move-in-place":
        monkeypatch.setattr(perturbed_weights, "_swaps", lambda params: False)


@pytest.mark.usefixtures("both_ways_there")
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_three_steps_of_a_sharpness_aware_method(case: Case, network: str) -> None:
    model = NETWORKS[network]()
    oracle = Oracle(model, **SGD)
    optimizer = case.optimizer(model.named_parameters(), torch.optim.SGD, **case.options, **SGD)
    generator = torch.Generator().manual_seed(1)
    for x, y in batches():
        sampled = torch.randint(4, y.shape, generator=generator)
        closure = Closure(model, x, y, sampled)
        before = oracle.w
        loss, gradient, eps = sharpness_aware_gradient(oracle, case, x, y, sampled)
        assert optimizer.step(closure, size=len(x)) == pytest.approx(float(loss), rel=1e-12)
        trained = [p.requires_grad for p in model.parameters()]
        probe = torch.cat([p.flatten() for p, t in zip(closure.visited[-1], trained, strict=True) if t])
        torch.testing.assert_close(probe - before, eps, rtol=1e-9, atol=1e-12)
        oracle.sgd(gradient)
        assert_same(model, oracle)


def assert_same(model: nn.Module, oracle: Oracle) -> None:
    """Weights, frozen weights and running statistics agree."""
    for (name, mine), theirs in zip(model.state_dict().items(), oracle.model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.usefixtures("both_ways_there")
@pytest.mark.parametrize("full_batch", ["own", "mean"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("parts", [1, 3, 8], ids="M{}".format)
def test_three_steps_of_the_regulariser(network: str, parts: int, full_batch: str) -> None:
    """jia2020, eq. 7; a large alpha so that the difference is well above rounding."""
    alpha, beta = 0.05, 7.0
    model = NETWORKS[network]()
    oracle = Oracle(model, **SGD)
    optimizer = FisherTrace(
        model.parameters(), alpha=alpha, beta=beta, sub_batches=parts, full_batch=full_batch, start="immediately", **SGD
    )
    for x, y in batches():
        # Sub-batches come out as torch.tensor_split cuts them, up to where the longer ones stand.
        count = min(parts, len(x))
        edges = [len(x) * i // count for i in range(count + 1)]
        loss, gradient = oracle.gradient(oracle.w, x, y)
        regulariser, penalty = torch.zeros_like(gradient), 0.0
        mean_loss, mean_gradient = 0.0, torch.zeros_like(gradient)
        for a, b in pairwise(edges):
            # In the form of two passes running statistics move here, once for each sub-batch.
            at_w, g = oracle.gradient(oracle.w, x[a:b], y[a:b], keep_statistics=full_batch == "mean")
            below, g_below = oracle.gradient(oracle.w - alpha * g, x[a:b], y[a:b])
            regulariser += (b - a) / len(x) * (g - g_below)
            penalty += (b - a) / len(x) * (at_w - below)
            mean_loss += (b - a) / len(x) * at_w
            mean_gradient += (b - a) / len(x) * g
        if full_batch == "mean":
            loss, gradient = mean_loss, mean_gradient
        else:
            oracle.gradient(oracle.w, x, y, keep_statistics=True)
        closure = Closure(model, x, y)
        reported = optimizer.step(closure, size=len(x))
        assert len(closure.visited) == 2 * count + (full_batch == "own")
        assert reported == pytest.approx(float(loss), rel=1e-12)
        assert optimizer.penalty == pytest.approx(float(penalty), rel=1e-9)
        oracle.sgd(gradient + beta * regulariser)
        assert_same(model, oracle)


def test_the_mean_of_sub_batches_is_the_full_batch_without_batchnorm() -> None:
    """Two passes where the network is known to mix no examples; three, the same to rounding, where it is not known."""
    after = []
    for options, known in (({}, False), ({"full_batch": "mean"}, False), ({}, True)):
        model = NETWORKS["plain"]()
        options = {**options, "model": model if known else None, **SGD}
        optimizer = FisherTrace(model.parameters(), alpha=0.05, sub_batches=3, start="immediately", **options)
        passes = []
        for x, y in batches():
            closure = Closure(model, x, y)
            optimizer.step(closure, size=len(x))
            passes.append(len(closure.visited))
        assert passes == [6 if known or "full_batch" in options else 7] * 3
        after.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(after[1], after[0], rtol=1e-10, atol=1e-13)
    assert torch.equal(after[1], after[2])


def test_regulariser_gradient_is_half_of_the_penalty_gradient() -> None:
    """Holding g constant halves the gradient of alpha ||g||^2 (to first order in alpha)."""
    model = NETWORKS["plain"]()
    ((x, y),) = batches((8,))
    oracle = Oracle(model, 0.1, 0.0, 0.0)
    alpha = 1e-6

    def gradient_of(w: Tensor) -> Tensor:
        torch.nn.utils.vector_to_parameters(w, oracle.model.parameters())
        return oracle.gradient(w, x, y)[1]

    w = oracle.w.clone()
    g = gradient_of(w)
    stopped = (g - oracle.gradient(w - alpha * g, x, y)[1]) / alpha
    direction = torch.randn(w.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    h = 1e-6
    full = (gradient_of(w + h * direction).square().sum() - gradient_of(w - h * direction).square().sum()) / (2 * h)
    assert float(stopped @ direction / full) == pytest.approx(0.5, abs=1e-3)
