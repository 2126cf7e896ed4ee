"""Variants of the two-pass step against their papers' formulas, on dense float64 vectors."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from oracles import Oracle
from problems import NETWORKS, Closure, batches, network_with_batchnorm, network_without_batchnorm
from torch import Tensor, nn

from fsbench.optim import ASAM, FSAM, GSAM, SAM, Descent, FriendlySAM, SharpnessAware, perturbed_weights

SGD = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.01}
# The second group's own.
OWN = {"lr": 0.1, "weight_decay": 0.2, "rho": 0.5}
RHO = 0.2


def built(kind: type[SharpnessAware], model: nn.Module, **options: Any) -> SharpnessAware:
    """Two groups: the last layer has options of its own."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    groups = [{"params": named[:-2]}, {"params": named[-2:], **OWN}]
    return kind(groups, torch.optim.SGD, rho=RHO, **SGD, **options)


class Dense(Oracle):
    """The formulas on vectors; lr, weight decay and rho are those of each weight's group."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model, 1.0, SGD["momentum"], 0.0)
        last = sum(p.numel() for p in [p for p in model.parameters() if p.requires_grad][-2:])
        both = {key: torch.full_like(self.w, value) for key, value in {**SGD, "rho": RHO}.items()}
        for key, value in OWN.items():
            both[key][-last:] = value
        self.mean = torch.zeros_like(self.w)
        self.lr, self.weight_decay, self.rho = both["lr"], both["weight_decay"], both["rho"]

    def gsam(self, x: Tensor, y: Tensor, alpha: float, rho: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Loss, and the gradient that the step descends along."""
        loss, g = self.gradient(self.w, x, y, keep_statistics=True)
        eps = (self.rho if rho is None else rho) * g / g.norm()
        perturbed = self.gradient(self.w + eps, x, y)[1]
        unit = perturbed / perturbed.norm()
        return loss, perturbed - alpha * (g - (g @ unit) * unit)

    def friendly(self, x: Tensor, y: Tensor, sigma: float, decay: float) -> tuple[Tensor, Tensor]:
        loss, g = self.gradient(self.w, x, y, keep_statistics=True)
        self.mean = decay * self.mean + (1 - decay) * g
        d = g - sigma * self.mean
        return loss, self.gradient(self.w + self.rho * d / d.norm(), x, y)[1]


METHODS: dict[str, tuple[type[SharpnessAware], dict[str, Any], Callable[..., tuple[Tensor, Tensor]]]] = {
    "gsam": (GSAM, {"alpha": 0.7}, lambda dense, x, y: dense.gsam(x, y, 0.7)),
    "friendly": (FriendlySAM, {}, lambda dense, x, y: dense.friendly(x, y, 1.0, 0.9)),
    "friendly-half": (FriendlySAM, {"sigma": 0.5, "decay": 0.6}, lambda dense, x, y: dense.friendly(x, y, 0.5, 0.6)),
}


def assert_same(model: nn.Module, dense: Oracle) -> None:
    """Weights, frozen weights and running statistics agree; BatchNorm counted one batch a step."""
    for (name, mine), theirs in zip(model.state_dict().items(), dense.model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("in_place", [False, True], ids=["parameters-point-elsewhere", "parameters-move-in-place"])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", METHODS)
def test_steps_of_two_groups_with_a_skipped_one_and_a_state_loaded_between(
    method, network, in_place, monkeypatch
) -> None:
    if in_place:
        monkeypatch.setattr(perturbed_weights, "_swaps", lambda params: False)
    kind, options, step = METHODS[method]
    model = NETWORKS[network]()
    dense, optimizer = Dense(model), built(kind, model, **options)
    for number, (x, y) in enumerate(batches((8, 8, 5, 8, 8, 8))):
        if number == 2:  # it leaves nothing behind, in the method's own state neither
            optimizer.step(Closure(model, x * torch.inf, y), size=len(x))
            assert optimizer.skipped == 1
        if number == 4:
            file = io.BytesIO()
            torch.save([model.state_dict(), optimizer.state_dict()], file)
            file.seek(0)
            weights, state = torch.load(file, weights_only=True)
            model = NETWORKS[network]()
            model.load_state_dict(weights)
            optimizer = built(kind, model, **options)
            optimizer.load_state_dict(state)
        loss, gradient = step(dense, x, y)
        dense.sgd(gradient)
        assert float(optimizer.step(Closure(model, x, y), size=len(x))) == pytest.approx(float(loss), rel=1e-12)
        assert_same(model, dense)


PLAIN = {
    "gsam": (GSAM, {"alpha": 0.0}),
    "friendly": (FriendlySAM, {"sigma": 0.0}),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", PLAIN)
def test_without_its_own_term_it_is_sam_bit_for_bit(method, network) -> None:
    kind, options = PLAIN[method]
    models = [NETWORKS[network]().float() for _ in range(2)]
    optimizers = [built(kind, models[0], **options), built(SAM, models[1])]
    for x, y in batches() * 3:
        for model, optimizer in zip(models, optimizers, strict=True):
            optimizer.step(Closure(model, x.float(), y), size=len(x))
    for mine, theirs in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("method", METHODS)
def test_sub_batches_are_mini_batches_of_their_own(method) -> None:
    """m-sharpness: the mean of the sub-batches' gradients to descend along."""
    kind, options, step = METHODS[method]
    model = network_without_batchnorm()
    dense, optimizer = Dense(model), built(kind, model, m=4, **options)
    for x, y in batches((8, 8, 8)):
        parts = [step(dense, x[:4], y[:4]), step(dense, x[4:], y[4:])]
        dense.sgd(sum(gradient for _, gradient in parts) / 2)
        loss = sum(float(loss) for loss, _ in parts) / 2
        assert float(optimizer.step(Closure(model, x, y), size=8)) == pytest.approx(loss, rel=1e-12)
        assert_same(model, dense)


@pytest.mark.parametrize("value", [math.inf, math.nan])
@pytest.mark.parametrize("bad_pass", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_a_pass_that_is_not_finite_skips_the_step(method, bad_pass, value) -> None:
    kind, options, _ = METHODS[method]
    model = network_with_batchnorm()
    optimizer = built(kind, model, **options)
    ((x, y),) = batches((8,))
    inner = Closure(model, x, y)

    def closure(rows=None) -> Tensor:
        loss = inner(rows)
        if len(inner.visited) == bad_pass + 1:
            next(model.parameters()).grad[0] = value
        return loss

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert math.isfinite(optimizer.step(closure))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not optimizer.state
    assert (optimizer.skipped, optimizer.skipped_in_a_row) == (1, 1)


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW], ids=["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_get_a_gradient_in_one_pass_only(method, base) -> None:
    """Part of a network may rest in a pass; the base moves what has a gradient in the second one."""
    kind, options, _ = METHODS[method]
    model = network_without_batchnorm()
    optimizer = kind(model.parameters(), base, rho=0.1, lr=0.1, **options)
    ((x, y),) = batches((8,))
    inner = Closure(model, x, y)

    def closure() -> Tensor:
        loss = inner()
        if len(inner.visited) == 2:
            model[1].bias.grad = None
        return loss

    before = model[1].bias.clone()
    optimizer.step(closure)
    assert torch.equal(before, model[1].bias)
    optimizer.step(closure)
    assert not torch.equal(before, model[1].bias)
    assert optimizer.skipped == 0


@pytest.mark.parametrize("method", METHODS)
def test_sparse_gradients_are_refused_by_name(method) -> None:
    kind, options, _ = METHODS[method]
    model = nn.Sequential(nn.EmbeddingBag(20, 6, sparse=True, mode="sum"), nn.Linear(6, 3)).double()
    optimizer = kind(model.named_parameters(), torch.optim.SGD, lr=0.1, **options)
    with pytest.raises(ValueError, match=f"{kind.__name__} can't do with sparse weights or gradients"):
        optimizer.step(Closure(model, torch.arange(40).view(10, 4) % 20, torch.arange(10) % 3), size=10)


def test_the_radius_of_gsam_follows_the_learning_rate() -> None:
    """Zhuang et al. 2022, algorithm 1: linear between (lr_min, rho_min) and (lr_max, rho_max), each group's its own."""
    factors = [0.1, 0.5, 1.0, 0.7, 0.3]  # below lr_min the radius stays as it is there
    model = network_without_batchnorm()
    dense, optimizer = Dense(model), built(GSAM, model, alpha=0.3, rho_min=0.05, lr_min=0.05)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factors[min(step, 4)])
    peak = dense.lr.clone()
    for (x, y), factor in zip(batches((8, 8, 5, 8, 8)), factors, strict=True):
        dense.lr = factor * peak
        share = ((dense.lr - 0.05) / (peak - 0.05)).clamp(min=0)
        dense.sgd(dense.gsam(x, y, 0.3, 0.05 + (dense.rho - 0.05) * share)[1])
        optimizer.step(Closure(model, x, y))
        scheduler.step()
        assert_same(model, dense)


def test_friendly_sam_is_the_authors_code() -> None:
    """Their m begins with the first gradient; from the second step on d is g_t - m_(t-1), with sigma = 1."""
    model = network_without_batchnorm()
    dense = Dense(model)
    optimizer = built(FriendlySAM, model)
    theirs = None
    for x, y in batches((8, 8, 5, 8)):
        _, g = dense.gradient(dense.w, x, y)
        if theirs is None:
            # The mean that the paper's has after a first step, so that both go on from one mean.
            d, theirs = g, 0.1 * g
        else:
            d, theirs = g - theirs, 0.9 * theirs + 0.1 * g
        dense.sgd(dense.gradient(dense.w + dense.rho * d / d.norm(), x, y)[1])
        optimizer.step(Closure(model, x, y))
        assert_same(model, dense)


WINDOWED: dict[str, tuple[type[SharpnessAware], dict[str, Any]]] = {
    "sam": (SAM, {}),
    "sam-m": (SAM, {"m": 3}),
    "asam": (ASAM, {"eta": 0.1}),
    "fsam-natural": (FSAM, {"natural": True}),
    "gsam": (GSAM, {}),
    "friendly": (FriendlySAM, {}),
}


@pytest.mark.parametrize("method", WINDOWED)
def test_outside_of_start_and_stop_it_is_its_base_in_one_pass(method) -> None:
    """Bit for bit the base, then the method from the base's state, then the base from there."""
    kind, options = WINDOWED[method]
    made = {
        "windowed": (kind, {"start": 0.25, "stop": 0.75, **options}),
        "base": (Descent, {}),
        "method": (kind, options),
    }
    models = {name: network_with_batchnorm().float() for name in made}
    optimizers = {
        name: of(models[name].named_parameters(), torch.optim.SGD, **SGD, **own) for name, (of, own) in made.items()
    }
    steps = [(x.float(), y) for x, y in batches((8,) * 8)]
    of_method: list[int] = []
    for number, (x, y) in enumerate(steps):
        now = "method" if 2 <= number < 6 else "base"
        before = "method" if 2 <= number - 1 < 6 else "base"
        if now != before:
            models[now].load_state_dict(models[before].state_dict())
            state = optimizers[before].state_dict()
            if now == "base":  # what the base needs of it
                state = {**state, "method": "Descent", "param_groups": optimizers[now].state_dict()["param_groups"]}
            optimizers[now].load_state_dict(state)
        optimizers["windowed"].progress = number / len(steps)
        passes = []
        for name in ("windowed", now):
            closure = Closure(models[name], x, y)
            optimizers[name].step(closure, size=len(x))
            passes.append(len(closure.visited))
        assert passes[0] == passes[1]
        of_method.append(passes[0])
        for mine, theirs in zip(
            models["windowed"].state_dict().values(), models[now].state_dict().values(), strict=True
        ):
            assert torch.equal(mine, theirs)
    inside = 6 if options.get("m") else 2
    assert of_method == [1, 1, *[inside] * 4, 1, 1]


BAD = [
    pytest.param(SAM, {"start": 0.5, "stop": 0.5}, "0 <= start < stop <= 1, got 0.5 and 0.5", id="start-and-stop"),
    pytest.param(GSAM, {"alpha": -1.0}, "alpha must be a finite number >= 0, got -1.0", id="alpha"),
    pytest.param(GSAM, {"rho": 0.1, "rho_min": 0.2}, "rho_min must be at most rho, 0.1, got 0.2", id="rho_min"),
    pytest.param(GSAM, {"lr_min": math.nan}, "lr_min must be a finite number >= 0, got nan", id="lr_min"),
    pytest.param(GSAM, {"perturbation": "local"}, "perturbation='local' does not go with GSAM", id="gsam-local"),
    pytest.param(FriendlySAM, {"sigma": -1.0}, "sigma must be a finite number >= 0, got -1.0", id="sigma"),
    pytest.param(FriendlySAM, {"decay": 1.0}, "decay must be at least 0 and below 1, got 1.0", id="decay"),
    pytest.param(
        FriendlySAM, {"perturbation": "local"}, "perturbation='local' does not go with FriendlySAM", id="friendly-local"
    ),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_bad_options_are_named(method, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        method(network_without_batchnorm().parameters(), torch.optim.SGD, lr=0.1, **options)
