"""What holds for every method: base at zero strength, exact restoring, state, groups, skipping."""

from __future__ import annotations

import copy
import io
import math

import pytest
import torch
from problems import NETWORKS, Closure, batches, network_with_batchnorm, network_without_batchnorm
from torch import nn

from fsbench.optim import ASAM, FSAM, GSAM, SAM, Descent, FisherTrace, FriendlySAM

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}

METHODS = {
    "plain": lambda p, **o: Descent(p, torch.optim.SGD, **SGD, **o),
    "sam": lambda p, **o: SAM(p, torch.optim.SGD, rho=0.1, **SGD, **o),
    "asam": lambda p, **o: ASAM(p, torch.optim.SGD, rho=0.5, eta=0.01, **SGD, **o),
    "fsam": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, **SGD, **o),
    "fsam-m": lambda p, **o: FSAM(p, torch.optim.SGD, rho=0.1, eta=1.0, m=3, **SGD, **o),
    "gsam": lambda p, **o: GSAM(p, torch.optim.SGD, rho=0.1, **SGD, **o),
    "friendly": lambda p, **o: FriendlySAM(p, torch.optim.SGD, rho=0.1, **SGD, **o),
    "friendly-adamw": lambda p, **o: FriendlySAM(p, torch.optim.AdamW, rho=0.1, lr=0.01, **o),
    "fisher-trace": lambda p, **o: FisherTrace(p, torch.optim.SGD, alpha=0.01, start="immediately", **SGD, **o),
    "fsam-adamw": lambda p, **o: FSAM(p, torch.optim.AdamW, rho=0.1, eta=1.0, lr=0.01, **o),
}
ZERO_STRENGTH = {
    "sam": lambda p: SAM(p, torch.optim.SGD, rho=0.0, **SGD),
    "asam": lambda p: ASAM(p, torch.optim.SGD, rho=0.0, **SGD),
    "fsam": lambda p: FSAM(p, torch.optim.SGD, rho=0.0, **SGD),
    "gsam": lambda p: GSAM(p, torch.optim.SGD, rho=0.0, **SGD),
    "friendly": lambda p: FriendlySAM(p, torch.optim.SGD, rho=0.0, **SGD),
    "fisher-trace": lambda p: FisherTrace(p, torch.optim.SGD, beta=0.0, start="immediately", **SGD),
    "before-the-first-drop": lambda p: FisherTrace(p, torch.optim.SGD, beta=9.0, **SGD),
}


def train(model, optimizer, steps) -> None:
    for x, y in steps:
        optimizer.step(Closure(model, x, y), size=len(x))


def assert_identical(a: nn.Module, b: nn.Module) -> None:
    for (name, mine), theirs in zip(a.state_dict().items(), b.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs), name


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("method", ZERO_STRENGTH)
def test_zero_strength_is_the_base_optimizer_bit_for_bit(method, network) -> None:
    model = NETWORKS[network]().float()
    plain = copy.deepcopy(model)
    base = torch.optim.SGD(plain.parameters(), **SGD)
    steps = [(x.float(), y) for x, y in batches() * 3]
    train(model, ZERO_STRENGTH[method](model.named_parameters()), steps)
    for x, y in steps:
        base.zero_grad()
        nn.functional.cross_entropy(plain(x), y, label_smoothing=0.1).backward()
        base.step()
    assert_identical(model, plain)


@pytest.mark.parametrize("method", METHODS)
def test_resuming_from_the_state_dict_is_bit_identical(method) -> None:
    model = network_with_batchnorm().float()
    optimizer = METHODS[method](model.named_parameters())
    steps = [(x.float(), y) for x, y in batches() * 2]
    train(model, optimizer, steps[:3])
    file = io.BytesIO()
    torch.save([model.state_dict(), optimizer.state_dict()], file)
    train(model, optimizer, steps[3:])

    again = network_with_batchnorm().float()
    resumed = METHODS[method](again.named_parameters())
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    assert resumed.param_groups is resumed.base.param_groups
    assert resumed.state is resumed.base.state
    train(again, resumed, steps[3:])
    assert_identical(model, again)


@pytest.mark.parametrize("method", METHODS)
def test_weights_are_exactly_w_before_the_update(method) -> None:
    """With lr 0 nothing but the perturbation moves weights, so nothing may be left of it."""
    model = network_with_batchnorm().float()
    optimizer = METHODS[method](model.named_parameters())
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    before = [p.clone() for p in model.parameters()]
    ((x, y),) = batches((8,))
    closure = Closure(model, x.float(), y)
    optimizer.step(closure, size=8)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    if method != "plain":
        assert any(not torch.equal(a, b) for a, b in zip(before, closure.visited[-1], strict=True)) or (
            method == "fisher-trace"
        )


@pytest.mark.parametrize("method", [m for m in METHODS if m not in ("fsam-m",)])
def test_running_statistics_move_once_a_step(method) -> None:
    model = network_with_batchnorm()
    optimizer = METHODS[method](model.named_parameters())
    ((x, y),) = batches((8,))
    expected = copy.deepcopy(model[1])
    expected(model[0](x))
    optimizer.step(Closure(model, x, y), size=8)
    assert int(model[1].num_batches_tracked) == 1
    torch.testing.assert_close(model[1].running_mean, expected.running_mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(model[1].running_var, expected.running_var, rtol=1e-12, atol=0)


def test_an_exception_in_the_second_pass_leaves_weights_and_statistics() -> None:
    model = network_with_batchnorm()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, **SGD)
    ((x, y),) = batches((8,))
    inner = Closure(model, x, y)
    before = [p.clone() for p in model.parameters()]

    def closure():
        loss = inner()
        if len(inner.visited) == 2:
            raise KeyboardInterrupt
        return loss

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert int(model[1].num_batches_tracked) == 1


@pytest.mark.parametrize("bad_pass", [0, 1])
@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_gradients_skip_the_step(bad_pass, value) -> None:
    model = network_with_batchnorm()
    optimizer = FSAM(model.parameters(), torch.optim.SGD, **SGD)
    ((x, y),) = batches((8,))
    inner = Closure(model, x, y)

    def closure():
        loss = inner()
        if len(inner.visited) == bad_pass + 1:
            next(model.parameters()).grad[0] = value
        return loss

    before = [p.clone() for p in model.parameters()]
    loss = optimizer.step(closure)
    assert math.isfinite(loss)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not optimizer.state
    assert (optimizer.skipped, optimizer.skipped_in_a_row) == (1, 1)
    optimizer.step(inner)
    assert (optimizer.skipped, optimizer.skipped_in_a_row) == (1, 0)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(SAM, {}), (GSAM, {"alpha": 0.7}), (FriendlySAM, {}), (FriendlySAM, {"sigma": 0.5, "decay": 0.6})],
)
def test_zero_gradient_still_lets_weight_decay_act(kind, options) -> None:
    model = network_without_batchnorm()
    optimizer = kind(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1, weight_decay=0.5, **options)
    before = [p.clone() for p in model.parameters()]

    def closure():
        loss = 0 * sum(p.sum() for p in model.parameters())
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    for a, b in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(b, a * 0.95)


def test_groups_have_radii_of_their_own_under_one_norm() -> None:
    model = network_without_batchnorm()
    first, last = model[1], model[3]
    optimizer = SAM(
        [{"params": list(first.parameters()), "rho": 0.4}, {"params": list(last.parameters())}],
        torch.optim.SGD, rho=0.1, lr=0.1,
    )  # fmt: skip
    ((x, y),) = batches((8,))
    closure = Closure(model, x, y)
    optimizer.one_pass(closure)
    g = [p.grad.clone() for p in model.parameters()]
    norm = torch.cat([t.flatten() for t in g]).norm()
    optimizer.step(closure)
    moved = [b - a for a, b in zip(closure.visited[1], closure.visited[2], strict=True)]
    for delta, gradient, rho in zip(moved, g, [0.4, 0.4, 0.1, 0.1], strict=True):
        torch.testing.assert_close(delta, rho * gradient / norm, rtol=1e-9, atol=1e-14)


def test_a_group_added_later_is_perturbed_and_updated() -> None:
    model = network_without_batchnorm()
    optimizer = SAM(model[1].parameters(), torch.optim.SGD, rho=0.1, **SGD)
    optimizer.add_param_group({"params": list(model[3].parameters()), "lr": 0.5})
    assert optimizer.param_groups[1]["rho"] == 0.1
    assert optimizer.param_groups[1]["momentum"] == 0.9
    before = model[3].weight.clone()
    ((x, y),) = batches((8,))
    optimizer.step(Closure(model, x, y))
    assert not torch.equal(before, model[3].weight)


def test_a_scheduler_acts_on_the_base_optimizer() -> None:
    model = network_without_batchnorm()
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.1, **SGD)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    ((x, y),) = batches((8,))
    optimizer.step(Closure(model, x, y))
    scheduler.step()
    assert optimizer.base.param_groups[0]["lr"] == 0.05


def test_the_regulariser_starts_with_the_first_drop_and_remembers_it() -> None:
    model = network_without_batchnorm()
    optimizer = FisherTrace(model.parameters(), lr=0.1)
    ((x, y),) = batches((8,))
    # A warm-up raises the rate; that is no drop.
    for lr, active in [(0.01, False), (0.1, False), (0.1, False), (0.02, True)]:
        optimizer.param_groups[0]["lr"] = lr
        optimizer.step(Closure(model, x, y), size=8)
        assert (optimizer.penalty is not None) == active
    again = FisherTrace(model.parameters(), lr=0.02)
    again.load_state_dict(optimizer.state_dict())
    assert again.active


def test_strided_sub_batches_where_the_size_is_not_given() -> None:
    """optimizer.step(closure) of the README works for the regulariser too."""
    ((x, y),) = batches((8,))
    order = torch.arange(8).reshape(4, 2).T.flatten()
    strided, contiguous = network_without_batchnorm(), network_without_batchnorm()
    options = {"alpha": 0.05, "sub_batches": 2, "start": "immediately", **SGD}
    FisherTrace(strided.parameters(), **options).step(Closure(strided, x, y))
    FisherTrace(contiguous.parameters(), **options).step(Closure(contiguous, x[order], y[order]), size=8)
    for a, b in zip(strided.parameters(), contiguous.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)


BAD = [
    pytest.param(SAM, {"rho": -0.1}, "rho must be a finite number >= 0, got -0.1", id="rho"),
    pytest.param(SAM, {"rho": math.nan}, "rho must be a finite number >= 0, got nan", id="rho-nan"),
    pytest.param(ASAM, {"eta": -1}, "eta must be a finite number >= 0, got -1", id="eta"),
    pytest.param(ASAM, {"scale": "some"}, "scale must be 'weights' or 'all', got 'some'", id="scale"),
    pytest.param(FSAM, {"form": "additive", "eta": 0.0}, "eta must be > 0 in the additive form", id="additive"),
    pytest.param(FSAM, {"fisher": "full"}, "fisher must be 'batch', 'per_example' or 'true', got 'full'", id="fisher"),
    pytest.param(FSAM, {"m": 0}, "m must be >= 1 or None, got 0", id="m"),
    pytest.param(FisherTrace, {"alpha": 0.0}, "alpha must be a finite number > 0, got 0.0", id="alpha"),
    pytest.param(FisherTrace, {"beta": -1.0}, "beta must be a finite number >= 0, got -1.0", id="beta"),
    pytest.param(FisherTrace, {"sub_batches": 0}, "sub_batches must be >= 1, got 0", id="sub_batches"),
    pytest.param(
        FisherTrace, {"full_batch": "other"}, "full_batch must be 'own' or 'mean', got 'other'", id="full_batch"
    ),
    pytest.param(SAM, {"rho": 0.1, "max_norm": 0.0}, "max_norm must be > 0 or None, got 0.0", id="max_norm"),
]


@pytest.mark.parametrize(("method", "options", "message"), BAD)
def test_bad_options_are_named(method, options, message) -> None:
    with pytest.raises(ValueError) as failure:
        method(network_without_batchnorm().named_parameters(), torch.optim.SGD, lr=0.1, **options)
    assert message in str(failure.value)


def test_a_bad_radius_in_a_group_is_named() -> None:
    with pytest.raises(ValueError, match="rho must be a finite number >= 0, got -3"):
        SAM([{"params": [torch.zeros(2, requires_grad=True)], "rho": -3}], torch.optim.SGD, rho=0.1, lr=0.1)


def test_a_missing_closure_or_size_is_explained() -> None:
    model = network_without_batchnorm()
    with pytest.raises(RuntimeError, match="step needs a closure"):
        SAM(model.parameters(), torch.optim.SGD, rho=0.1, lr=0.1).step()
    ((x, y),) = batches((8,))
    sliced = SAM(model.parameters(), torch.optim.SGD, rho=0.1, m=2, lr=0.1)
    with pytest.raises(ValueError, match=r"call optimizer.step\(closure, size=len\(x\)\)"):
        sliced.step(Closure(model, x, y))
    of_means = FisherTrace(model.parameters(), full_batch="mean", start="immediately", lr=0.1)
    with pytest.raises(ValueError, match=r"FisherTrace with full_batch='mean' slices the mini-batch"):
        of_means.step(Closure(model, x, y))


def test_asam_says_what_it_takes_for_a_bias_without_names() -> None:
    with pytest.warns(UserWarning, match="hand in model.named_parameters"):
        ASAM(network_without_batchnorm().parameters(), torch.optim.SGD, lr=0.1)


def test_lbfgs_is_refused() -> None:
    with pytest.raises(TypeError, match="LBFGS evaluates the closure itself"):
        SAM(network_without_batchnorm().parameters(), torch.optim.LBFGS, rho=0.1)
