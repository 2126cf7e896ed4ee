"""Networks, losses and data that look as if a measure held for them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fsbench.sharpness import (
    GaussNewtonWarning,
    Refused,
    Risk,
    fisher_trace,
    hessian_diagonal,
    hessian_top_eigenvalues,
    hessian_trace,
)
from sharpness.networks import NETWORKS, batches, by_tensor, dense_hessian, whole

CE = nn.functional.cross_entropy


def flat(*layers: nn.Module) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(6)
        for layer in layers:
            for module in layer.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
    return nn.Sequential(nn.Flatten(), *layers).double().eval()


class Masked(nn.Linear):
    """Pruned: its weights are zero where the mask is, so its output is that of a plain layer."""

    def reset_parameters(self):
        super().reset_parameters()
        self.mask = torch.arange(self.weight.numel()).view_as(self.weight) % 3 > 0
        with torch.no_grad():
            self.weight.mul_(self.mask)

    def forward(self, x):
        return nn.functional.linear(x, self.weight * self.mask, self.bias)


class Activated(nn.Linear):
    def forward(self, x):
        return super().forward(x).relu()


class SequenceFirst(nn.Module):
    """A layer whose first axis is that of the positions."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.positions = positions
        self.token, self.head = nn.Linear(72 // positions, 4), nn.Linear(4 * positions, 4)

    def forward(self, x):
        tokens = self.token(x.reshape(len(x), self.positions, -1).transpose(0, 1))
        return self.head(torch.relu(tokens).transpose(0, 1).flatten(1))


class Auxiliary(nn.Module):
    """A head that is called but not used."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.other = nn.Linear(72, 5), nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, x):
        hidden = torch.relu(self.body(x.flatten(1)))
        self.other(hidden)
        with torch.no_grad():
            self.head(hidden)
        return self.head(hidden)


def linear() -> nn.Module:
    return flat(nn.Linear(72, 4))


class _NoRule(torch.autograd.Function):
    """An operation whose backward pass can't be batched: it looks at a number."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 1.0 if float(gradient.detach().sum()) > -1e9 else gradient


class Unbatchable(nn.Module):
    """Such an operation, between a layer and a bare parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.shift, self.head = nn.Linear(72, 5), nn.Parameter(torch.ones(5)), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(torch.relu(_NoRule.apply(self.first(x.flatten(1)) + self.shift)))


def test_an_operation_without_a_batched_backward_pass() -> None:
    """A Python function is not trusted to be linear, so the value is called Gauss-Newton; it is the same one here."""
    risk = Risk(Unbatchable().double(), CE, batches())
    assert not risk.weight_uses.batched
    assert risk.weight_uses.loose == ["shift"]
    with pytest.warns(GaussNewtonWarning, match="a function of Python"):
        found = hessian_diagonal(risk).values
    x, y = whole(batches())
    for name, p in risk.parameters.items():
        (gradient,) = torch.autograd.grad(CE(risk.model(x), y), p, create_graph=True)
        rows = [torch.autograd.grad(g, p, retain_graph=True)[0].flatten()[i] for i, g in enumerate(gradient.flatten())]
        torch.testing.assert_close(found[name].flatten(), torch.stack(rows), rtol=1e-9, atol=1e-13, msg=name)


EXACT = {
    "pruned by a mask": lambda: flat(Masked(72, 5), nn.ReLU(), nn.Linear(5, 4)),
    "activation inside": lambda: flat(Activated(72, 5), nn.Linear(5, 4)),
    "3 positions first": lambda: SequenceFirst(3).double(),
    "6 positions first": lambda: SequenceFirst(6).double(),
    "called but not used": lambda: Auxiliary().double(),
    "grouped, one position": lambda: nn.Sequential(nn.Conv2d(2, 4, 6, groups=2), nn.Flatten()).double(),
    "halved": lambda: nn.Sequential(linear(), nn.AvgPool1d(1), _Half()).double(),
}


class _Half(nn.Module):
    def forward(self, x):
        return x / 2


@pytest.mark.parametrize("sizes", [(8, 5), (1, 3, 1)], ids=str)
@pytest.mark.parametrize("name", EXACT)
def test_equals_the_dense_hessian(name, sizes) -> None:
    risk = Risk(EXACT[name](), CE, batches(sizes))
    expected = by_tensor(risk, dense_hessian(risk).diagonal())
    trace, found = hessian_trace(risk), hessian_diagonal(risk).values
    assert trace.exact
    assert trace.value == pytest.approx(sum(float(d.sum()) for d in expected.values()), rel=1e-9)
    for tensor, values in expected.items():
        torch.testing.assert_close(found[tensor], values, rtol=1e-9, atol=1e-12, msg=tensor)


class Renormalised(nn.Module):
    """One BatchNorm twice in a row: quadratic in its scale."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn, self.head = nn.Linear(72, 5), nn.BatchNorm1d(5), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.bn(torch.relu(self.bn(self.linear(x.flatten(1))))))


NONLINEAR = {
    "instance norm": lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    ),
    "batch norm twice": Renormalised,
}


@pytest.mark.parametrize("name", NONLINEAR)
def test_is_not_called_the_hessian(name) -> None:
    with pytest.warns(GaussNewtonWarning):
        assert not hessian_trace(Risk(NONLINEAR[name]().double().eval(), CE, batches())).exact


class Mixing(nn.Module):
    """Each example sees the one before it in its batch, the first one nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(72, 4)

    def forward(self, x):
        out = self.linear(x.flatten(1))
        return out + 0.1 * torch.cat([torch.zeros_like(out[:1]), out[:-1]])


class Clamps(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(72, 4)

    def forward(self, x):
        return self.linear(x.clamp_(min=0).flatten(1))


def labelled(label: int) -> list:
    return [(x, torch.full_like(y, label)) for x, y in batches()]


def later_label(label: int) -> list:
    first, *rest = batches()
    x, y = rest[0]
    return [first, (x, y.clone().fill_(label)), *rest[1:]]


REFUSED = {
    "sees its neighbour": (lambda: Mixing().double(), CE, batches(), "depends on the others"),
    "sum, one class in the first batch": (linear, nn.CrossEntropyLoss(reduction="sum"), labelled(2), "not the mean"),
    "weights, one class": (
        linear, nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3, 1, 1]).double()), labelled(2), "not the mean",
    ),
    "spread of the outputs": (
        linear, lambda o, y: CE(o, y) + o.var(0, unbiased=False).sum(), batches(), "not the mean",
    ),
    "changes its input": (lambda: Clamps().double(), CE, batches(), "changes its input in place"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_refuses(case) -> None:
    build, loss, data, message = REFUSED[case]
    with pytest.raises(Refused, match=message):
        Risk(build(), loss, data)


IN_A_PASS = {
    "ignored label": (nn.CrossEntropyLoss(ignore_index=1), later_label(1), "labels 1, which cross-entropy passes over"),
    "-100": (CE, later_label(-100), "labels -100"),
    "NaN in a later batch": (CE, [batches()[0], (batches()[1][0] * float("nan"), batches()[1][1])], "not finite"),
}


@pytest.mark.parametrize("case", IN_A_PASS)
@pytest.mark.parametrize("measure", [hessian_trace, fisher_trace], ids=["trace", "fisher"])
def test_refuses_in_a_pass(case, measure) -> None:
    loss, data, message = IN_A_PASS[case]
    with pytest.raises(Refused, match=message):
        measure(Risk(linear(), loss, data))


class Drifting:
    """Other examples in each pass."""

    def __init__(self) -> None:
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        for x, y in batches():
            yield x + 0.01 * self.passes, y


@pytest.mark.parametrize("measure", [hessian_trace, hessian_diagonal, fisher_trace], ids=lambda m: m.__name__)
def test_changing_data_are_refused(measure) -> None:
    risk = Risk(linear(), CE, Drifting())
    with pytest.raises(Refused, match="other examples each time"):
        for _ in range(2):
            measure(risk)


def test_labels_that_do_not_sum_to_one() -> None:
    data = [(x, torch.rand(len(y), 4, generator=torch.Generator().manual_seed(1)).double() * 2) for x, y in batches()]
    risk = Risk(linear(), CE, data)
    assert hessian_trace(risk).value == pytest.approx(float(dense_hessian(risk).trace()), rel=1e-9)


def test_sampled_classes_see_what_curves_a_sure_network() -> None:
    model = NETWORKS["fcnn"]()
    with torch.no_grad():
        model[5].weight.mul_(60)
    risk = Risk(model, CE, [(x, model(x).argmax(1)) for x, _ in batches()])
    exact = hessian_trace(risk).value
    found = torch.tensor([hessian_trace(risk, classes=2, seed=seed).value for seed in range(40)])
    assert abs(float(found.mean()) - exact) < 5 * float(found.std()) / 40**0.5
    assert float(found.std()) < exact


def test_eigenvalues_that_coincide_are_all_found() -> None:
    """A linear layer under squared error: each input direction once for every output."""
    model = flat(nn.Linear(72, 3, bias=False))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        data = [(torch.randn(30, 72).double(), torch.randn(30, 3).double())]
    risk = Risk(model, lambda o, y: (o - y).square().sum(1).mean(), data)
    expected = torch.linalg.eigvalsh(dense_hessian(risk)).flip(0)[:5]
    found = hessian_top_eigenvalues(risk, 5)
    assert [e.value for e in found] == pytest.approx(expected.tolist(), rel=1e-5)


def test_an_empty_batch_is_passed_over() -> None:
    x, y = whole(batches())
    risk = Risk(linear(), CE, [(x, y), (x[:0], y[:0])])
    assert risk.examples == 21
    assert hessian_trace(risk).samples == 21


def test_only_unused_weights_are_trained() -> None:
    model = Auxiliary().double()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("other"))
    with pytest.raises(Refused, match="depends on no trained weight"):
        hessian_trace(Risk(model, CE, batches()))
