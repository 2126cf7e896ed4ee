"""Trace and diagonal from K backward passes against the dense Hessian."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from fsbench.sharpness import GaussNewtonWarning, Refused, Risk, hessian_diagonal, hessian_trace
from sharpness.networks import NETWORKS, SMOOTH, batches, by_tensor, dense_hessian, risk_of, whole

CE = nn.functional.cross_entropy


def soft_margin(logits, labels):
    """A loss whose logit Hessian is neither a softmax's nor positive: 1/4 sum_k o_k^4 - o_y^2, mean over examples."""
    own = logits.gather(1, labels[:, None])[:, 0]
    return (logits.pow(4).sum(1) / 4 - own.square()).mean()


LOSSES = {
    "cross_entropy": CE,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
    "indefinite": soft_margin,
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_dense_hessian(name, loss) -> None:
    risk = risk_of(name, LOSSES[loss])
    expected = by_tensor(risk, dense_hessian(risk).diagonal())
    trace, diagonal = hessian_trace(risk), hessian_diagonal(risk)
    assert trace.exact
    assert trace.stderr == 0
    assert trace.samples == 21
    scale = max(abs(float(d.sum())) for d in expected.values())
    assert trace.value == pytest.approx(sum(float(d.sum()) for d in expected.values()), rel=1e-9)
    assert list(trace.per_layer) == risk.names
    for tensor, value in trace.per_layer.items():
        assert value == pytest.approx(float(expected[tensor].sum()), rel=1e-9, abs=1e-12 * scale), tensor
    for tensor, values in diagonal.values.items():
        torch.testing.assert_close(values, expected[tensor], rtol=1e-9, atol=1e-12 * scale, msg=tensor)


def test_negative_entries_are_reported() -> None:
    risk = risk_of("lenet", soft_margin)
    negative = int((dense_hessian(risk).diagonal() < 0).sum())
    assert 0 < negative == hessian_diagonal(risk).negative


@pytest.mark.parametrize("name", SMOOTH)
def test_says_gauss_newton_where_it_is(name) -> None:
    risk = risk_of(name)
    x, y = whole(batches())
    jacobian = torch.autograd.functional.jacobian
    weights = tuple(p.detach() for p in risk.weights)

    def logits(*tensors):
        return torch.func.functional_call(risk.model, dict(zip(risk.names, tensors, strict=True)), (x,))

    j = torch.cat([part.flatten(2) for part in jacobian(logits, weights)], dim=2)  # (n, K, W)
    p = logits(*weights).softmax(-1)
    expected = torch.einsum("nkw,nkl,nlw->w", j, torch.diag_embed(p) - p[:, :, None] * p[:, None, :], j) / len(y)
    with pytest.warns(GaussNewtonWarning, match="not piecewise linear"):
        trace = hessian_trace(risk)
    with pytest.warns(GaussNewtonWarning, match={"gelu": "Gelu", "tanh": "Tanh"}[name]):
        diagonal = hessian_diagonal(risk)
    assert trace.value == pytest.approx(float(expected.sum()), rel=1e-9)
    assert not trace.exact
    assert trace.method == "gauss-newton"
    assert "hutchinson" in trace.notes[0]
    for tensor, values in by_tensor(risk, expected).items():
        torch.testing.assert_close(diagonal.values[tensor], values, rtol=1e-9, atol=1e-12)
    assert float(dense_hessian(risk).trace()) != pytest.approx(trace.value, rel=1e-3)


class Twice(nn.Module):
    """A weight used twice in a row, and one multiplied with itself through two paths."""

    def __init__(self, gate: bool) -> None:
        super().__init__()
        self.first, self.square, self.gate = nn.Linear(72, 4), nn.Linear(4, 4), gate

    def forward(self, x):
        hidden = self.first(x.flatten(1))
        return hidden * self.square(hidden) if self.gate else self.square(torch.relu(self.square(hidden)))


@pytest.mark.parametrize("gate", [False, True], ids=["in a row", "gating"])
def test_a_weight_that_enters_twice_is_not_called_linear(gate) -> None:
    risk = Risk(Twice(gate).double().eval(), CE, batches())
    with pytest.warns(GaussNewtonWarning, match="two factors that depend on the same weight"):
        assert not hessian_trace(risk).exact


@pytest.mark.parametrize("memory", [1, 5_000, 60_000], ids=str)
@pytest.mark.parametrize("name", ["lenet", "resnet", "functional"])
def test_value_does_not_depend_on_memory(name, memory) -> None:
    risk = Risk(NETWORKS[name](), CE, batches(), memory=memory)
    free = risk_of(name)
    assert hessian_trace(risk).value == pytest.approx(hessian_trace(free).value, rel=1e-12)
    assert hessian_trace(risk).example_stderr == pytest.approx(hessian_trace(free).example_stderr, rel=1e-9)
    for tensor, values in hessian_diagonal(risk).values.items():
        torch.testing.assert_close(values, hessian_diagonal(free).values[tensor], rtol=1e-12, atol=1e-15)


def test_example_stderr_is_that_of_the_examples() -> None:
    alone = [hessian_trace(Risk(NETWORKS["lenet"](), CE, [(x[i:i+1], y[i:i+1])])).value
             for x, y in batches() for i in range(len(y))]  # fmt: skip
    values = torch.tensor(alone, dtype=torch.float64)
    trace = hessian_trace(risk_of("lenet"))
    assert trace.value == pytest.approx(float(values.mean()), rel=1e-12)
    assert trace.example_stderr == pytest.approx(float(values.std()) / 21**0.5, rel=1e-9)


@pytest.mark.parametrize("loss", LOSSES)
def test_sampled_classes_are_unbiased(loss) -> None:
    risk = risk_of("lenet", LOSSES[loss])
    exact = hessian_trace(risk).value
    sampled = hessian_trace(risk, classes=3, seed=5)
    assert sampled.stderr > 0
    assert not sampled.exact
    assert (sampled.samples, sampled.seed) == (3, 5)
    assert abs(sampled.value - exact) < 10 * sampled.stderr
    # The stated error is the one that repetitions have.
    few = torch.tensor([hessian_trace(risk, classes=2, seed=seed).value for seed in range(60)])
    stated = torch.tensor([hessian_trace(risk, classes=2, seed=seed).stderr for seed in range(60)])
    assert float(stated.square().mean().sqrt()) == pytest.approx(float(few.std()), rel=0.35)
    assert abs(float(few.mean()) - exact) < 4 * float(few.std()) / 60**0.5


def test_sampled_classes_do_not_depend_on_the_pieces() -> None:
    one, many = (Risk(NETWORKS["lenet"](), CE, batches(), memory=memory) for memory in (2**30, 5_000))
    assert hessian_trace(one, classes=3).value == pytest.approx(hessian_trace(many, classes=3).value, rel=1e-12)


def test_a_sure_network_keeps_its_digits_in_float32() -> None:
    """p_y = 1 - 1e-9: the difference of proposition 1 would be rounding alone."""
    model, data = NETWORKS["fcnn"](), batches()
    with torch.no_grad():
        model[5].weight.mul_(60)
    data = [(x, model(x).argmax(1)) for x, _ in data]
    exact = Risk(model, CE, data)
    single = Risk(model.float(), CE, [(x.float(), y) for x, y in data])
    value = hessian_trace(single).value
    assert hessian_trace(Risk(model.double(), CE, data)).value == pytest.approx(value, rel=1e-3)
    assert exact.examples == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "guess"}, "method=guess: must be one of exact, hutchinson, xtrace, baseline"),
        ({"classes": 0}, "classes=0: must be at least 1"),
    ],
    ids=["method", "classes"],
)
def test_bad_arguments(arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        hessian_trace(risk_of("fcnn"), **arguments)


def test_output_that_is_no_logits_is_refused() -> None:
    risk = Risk(nn.Conv2d(2, 4, 1).double().eval(), lambda o, y: (o.sum((1, 2, 3)) - y).square().mean(), batches())
    with pytest.raises(Refused, match=r"shape \(1, 4, 6, 6\); \(examples, classes\) is needed"):
        hessian_trace(risk)


def test_leaves_the_network_as_it_was() -> None:
    risk = risk_of("resnet")
    before = {name: value.clone() for name, value in risk.model.state_dict().items()}
    hessian_trace(risk), hessian_diagonal(risk)
    assert all(torch.equal(value, before[name]) for name, value in risk.model.state_dict().items())
    assert all(p.grad is None for p in risk.weights)
    assert all(not module._forward_hooks for module in risk.model.modules())


def test_no_warning_where_it_is_the_hessian() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hessian_trace(risk_of("resnet"))


class Temperature(nn.Module):
    """A trained tensor without axes."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.scale = nn.Linear(72, 4), nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        return self.scale * self.linear(x.flatten(1))


def test_a_weight_without_axes() -> None:
    risk = Risk(Temperature().double(), CE, batches())
    diagonal = dense_hessian(risk).diagonal()
    assert hessian_trace(risk).value == pytest.approx(float(diagonal.sum()), rel=1e-9)
    assert hessian_diagonal(risk).values["scale"].item() == pytest.approx(float(diagonal[0]), rel=1e-9)


def linear() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return nn.Sequential(nn.Flatten(), nn.Linear(72, 4)).double()


def test_weight_decay_inside_the_loss_is_refused() -> None:
    model = linear()
    risk = Risk(model, lambda o, y: CE(o, y) + sum(p.square().sum() for p in model.parameters()), batches())
    with pytest.raises(Refused, match="depends on weights otherwise than through the network's output"):
        hessian_trace(risk)
    # What differentiates L itself sees it.
    plain = hessian_trace(Risk(model, CE, batches())).value
    assert hessian_trace(risk, "baseline").value == pytest.approx(plain + 2 * (72 * 4 + 4), rel=1e-9)


def test_a_loss_without_curvature_is_refused() -> None:
    model = nn.Sequential(*linear(), nn.LogSoftmax(1))
    with pytest.raises(Refused, match="ends in LogSoftmax"):
        hessian_trace(Risk(model, nn.functional.nll_loss, batches()))


def test_a_loss_that_vmap_cannot_run() -> None:
    def loss(o, y):
        squares = (o - nn.functional.one_hot(y, 4)).square().sum(1).mean()
        return squares if float(squares.detach()) > 0 else 0 * squares

    risk = Risk(linear(), loss, batches())
    assert hessian_trace(risk).value == pytest.approx(float(dense_hessian(risk).trace()), rel=1e-9)


def test_as_many_draws_as_classes_are_all_of_them() -> None:
    trace = hessian_trace(risk_of("lenet"), classes=4)
    assert trace.exact
    assert trace.value == hessian_trace(risk_of("lenet")).value
    assert "exactly" in trace.notes[0]
    assert hessian_trace(risk_of("lenet"), classes=1).method == "1 sampled class an example"


def test_frozen_tensors_are_counted() -> None:
    trace = hessian_trace(risk_of("frozen"))
    assert trace.exact
    assert trace.notes == ("2 weight tensors are not trained and left out",)
