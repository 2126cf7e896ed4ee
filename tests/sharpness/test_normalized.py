"""Normalized and matrix-normalized sharpness against the dense Hessian of the surrogate loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fsbench.sharpness.derivatives.logit_hessian import GaussNewtonWarning
from fsbench.sharpness.derivatives.surrogate_loss import normalized_softmax_cross_entropy
from fsbench.sharpness.diagonal import hessian_diagonal
from fsbench.sharpness.estimate import Diagonal, Refused
from fsbench.sharpness.matrix_normalized import matrix_normalized_sharpness
from fsbench.sharpness.normalized import WeightMatrix, normalized_sharpness
from fsbench.sharpness.rescaling.homogeneous_operations import NotInvariantWarning, inhomogeneous_operations
from fsbench.sharpness.risk import Risk
from sharpness.networks import NETWORKS, batches, by_tensor, dense_hessian, risk_of
from sharpness.rescaling.balancing_reference import reference_minimum


class Channels(nn.Module):
    """A grouped, a depthwise, a transposed and a grouped transposed convolution, along one and two axes."""

    def __init__(self) -> None:
        super().__init__()
        self.grouped = nn.Conv2d(2, 4, 3, groups=2, padding=1)
        self.depthwise = nn.Conv2d(4, 8, 2, stride=2, groups=4, bias=False)
        self.up = nn.ConvTranspose2d(8, 6, 2)
        self.grouped_up = nn.ConvTranspose2d(6, 4, 2, groups=2)
        self.line = nn.Conv1d(4, 3, 2, stride=5)
        self.head = nn.Linear(15, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.depthwise(torch.relu(self.grouped(x))))
        x = torch.relu(self.grouped_up(torch.relu(self.up(x))))
        return self.head(torch.relu(self.line(x.flatten(2))).flatten(1))


def channels() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return Channels().double().eval()


# Weights of linear and convolution layers that are trained, in the networks of the shared file.
MATRICES = {
    "fcnn": ["1.weight", "3.weight", "5.weight"],
    "fcnn_bias": ["1.weight", "3.weight", "5.weight"],
    "lenet": ["0.weight", "3.weight", "6.weight", "8.weight"],
    "lenet_no_bias": ["0.weight", "3.weight", "6.weight", "8.weight"],
    "resnet": ["0.weight", "3.conv1.weight", "3.conv2.weight", "4.conv1.weight", "4.conv2.weight", "7.weight"],
    "frozen": ["1.weight", "5.weight"],
    "unused": ["used.1.weight", "used.3.weight", "used.5.weight", "spare.weight"],
    "tied": ["first.weight", "shared.weight", "last.weight"],
    "functional": ["first.weight", "last.weight"],
    "tokens": ["embed.weight", "mix.weight", "head.weight"],
    "channels": [f"{name}.weight" for name in ("grouped", "depthwise", "up", "grouped_up", "line", "head")],
}


def risk(name: str) -> Risk:
    model = channels() if name == "channels" else NETWORKS[name]()
    return Risk(model, nn.functional.cross_entropy, batches())


def by_channels(module: nn.Module, values: Tensor) -> Tensor:
    """(out, in), an entry at a time, as the layers' documentation has it."""
    if isinstance(module, nn.Linear):
        return values.clone()
    result = torch.zeros(module.out_channels, module.in_channels, dtype=torch.float64)
    outs, ins = module.out_channels // module.groups, module.in_channels // module.groups
    for o in range(module.out_channels):
        for i in range(module.in_channels):
            if o // outs == i // ins:
                part = values[i, o % outs] if module.transposed else values[o, i % ins]
                result[o, i] = part.sum()
    return result


def surrogate_diagonal(of: Risk) -> dict[str, Tensor]:
    surrogate = Risk(of.model, normalized_softmax_cross_entropy, of.batches)
    return by_tensor(surrogate, dense_hessian(surrogate).diagonal())


@pytest.mark.parametrize("name", MATRICES)
def test_equals_the_dense_reference(name):
    of = risk(name)
    h = surrogate_diagonal(of)
    found, whole = normalized_sharpness(of), matrix_normalized_sharpness(of)
    assert list(found.per_layer) == list(whole.per_layer) == MATRICES[name]
    negative = 0
    for weight in MATRICES[name]:
        module = of.model.get_submodule(weight.removesuffix(".weight"))
        squares = by_channels(module, of.parameters[weight].detach().square())
        curvature = by_channels(module, h[weight].clamp_min(0))
        negative += int((h[weight] < 0).sum())
        expected = reference_minimum(curvature, squares)
        assert found.per_layer[weight] == pytest.approx(expected, rel=1e-7, abs=1e-9)
        low = 2 * float((squares * curvature).sqrt().sum())
        high = 2 * math.sqrt(float(squares.sum() * curvature.sum()))
        assert low * (1 - 1e-9) <= found.per_layer[weight] <= high * (1 + 1e-9)
        total = max(0.0, float(h[weight].sum()))
        assert whole.per_layer[weight] == pytest.approx(math.sqrt(float(squares.sum()) * total), rel=1e-7, abs=1e-9)
    assert found.value == pytest.approx(sum(found.per_layer.values()), rel=1e-14)
    assert found.details["negative_entries"] == negative
    assert found.details["gap"] <= 1e-11 * found.value
    assert found.exact
    assert found.stderr == 0
    assert found.samples == 21


@pytest.mark.parametrize("measure", [normalized_sharpness, matrix_normalized_sharpness])
def test_the_loss_of_the_risk_does_not_matter(measure):
    plain = measure(risk_of("lenet"))
    smoothed = measure(risk_of("lenet", nn.CrossEntropyLoss(label_smoothing=0.3)))
    assert plain.value == smoothed.value


@pytest.mark.parametrize("measure", [normalized_sharpness, matrix_normalized_sharpness])
def test_a_diagonal_can_be_handed_in(measure):
    of = risk_of("lenet")
    plain = measure(of, diagonal=hessian_diagonal(of))
    surrogate = Risk(of.model, normalized_softmax_cross_entropy, of.batches)
    assert measure(of, diagonal=hessian_diagonal(surrogate)).value == pytest.approx(measure(of).value, rel=1e-12)
    assert plain.value != pytest.approx(measure(of).value, rel=1e-2)


def diagonal(values: dict[str, Tensor], stderr: dict[str, Tensor] | None = None) -> Diagonal:
    return Diagonal(values, stderr, samples=7, exact=stderr is None, seed=3, method="drawn", notes=("a note",))


@pytest.mark.parametrize("measure", [normalized_sharpness, matrix_normalized_sharpness])
def test_the_error_of_an_estimated_diagonal_is_bounded(measure):
    """Errors of all entries that go the same way move the value by as much as stderr says, to first order."""
    of = risk_of("lenet")
    h = {name: value.abs() + 0.01 for name, value in surrogate_diagonal(of).items()}
    generator = torch.Generator().manual_seed(0)
    error = {name: 1e-6 * torch.rand(value.shape, generator=generator).double() for name, value in h.items()}
    found = measure(of, diagonal=diagonal(h, error))
    moved = measure(of, diagonal=diagonal({name: h[name] + error[name] for name in h}))
    assert found.stderr == pytest.approx(moved.value - found.value, rel=1e-3)
    assert (found.samples, found.seed, found.method, found.exact) == (7, 3, "drawn", False)
    assert found.notes[-1] == "a note"
    assert "upper bound" in found.notes[-2]


def test_negative_entries_are_clipped_one_by_one_here_and_as_a_sum_there():
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4, bias=False)).double().eval()
    of = Risk(model, nn.functional.cross_entropy, batches())
    weight = model[1].weight.detach()
    h = torch.ones_like(weight)
    h[0] = -3.0
    found = normalized_sharpness(of, diagonal=diagonal({"1.weight": h}))
    expected = reference_minimum(h.clamp_min(0), weight.square())
    assert found.value == pytest.approx(expected, rel=1e-7)
    assert found.details["negative_entries"] == 72
    assert found.details["negative_share"] == pytest.approx(0.5)
    assert "72 of 288 entries of the diagonal are negative, 0.5 of its absolute sum" in found.notes[1]
    h[0] = -4.0
    whole = matrix_normalized_sharpness(of, diagonal=diagonal({"1.weight": h}))
    assert whole.value == 0.0
    assert whole.notes[1] == "the sum over the diagonal is negative, and counts as 0, for: 1.weight"
    h[0] = -2.0
    whole = matrix_normalized_sharpness(of, diagonal=diagonal({"1.weight": h}))
    assert whole.value == pytest.approx(math.sqrt(float(weight.square().sum()) * 72))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("fcnn", "3 weight matrices of linear and convolution layers"),
        ("fcnn_bias", "3 weight matrices of linear and convolution layers; left out: bias (3)"),
        ("resnet", "6 weight matrices of linear and convolution layers; left out: BatchNorm2d (10), bias"),
        (
            "frozen",
            "2 weight matrices of linear and convolution layers; left out: bias (2), matrices that are not trained",
        ),
        ("functional", "2 weight matrices of linear and convolution layers; left out: shift, scale, bias (2)"),
    ],
)
def test_what_is_left_out_is_said(name, said):
    assert normalized_sharpness(risk_of(name)).notes[0] == said


def built(build: Callable[[], nn.Module]) -> Risk:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Risk(build().double().eval(), nn.functional.cross_entropy, batches())


class Activated(nn.BatchNorm2d):
    """As timm has it: a normalisation layer of another name."""


def test_normalisation_layers_that_are_subclasses_are_said_by_their_kind():
    of = built(lambda: nn.Sequential(nn.Conv2d(2, 3, 6), Activated(3), nn.Flatten(), nn.Linear(3, 4, bias=False)))
    assert normalized_sharpness(of).notes[0].endswith("left out: bias, Activated (2)")


def test_a_weight_that_two_layers_share_counts_once():
    def shared() -> nn.Module:
        model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        model[5].weight = model[3].weight
        return model

    of = built(shared)
    h = surrogate_diagonal(of)
    found = normalized_sharpness(of, diagonal=diagonal(h))
    assert list(found.per_layer) == ["1.weight", "3.weight"]


class Applied(nn.Module):
    """A function between two linear layers."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.of = of
        self.first, self.last = nn.Linear(72, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.of(self.first(x.flatten(1))))


def attention(x: Tensor) -> Tensor:
    tokens = x.unflatten(1, (2, 2))
    return nn.functional.scaled_dot_product_attention(tokens, tokens, tokens).flatten(1)


BREAKING = {
    "gelu": (nn.functional.gelu, "Gelu"),
    "gelu module": (nn.GELU(), r"GELU \(of\)"),
    "tanh": (torch.tanh, "Tanh"),
    "sigmoid": (nn.Sigmoid(), r"Sigmoid \(of\)"),
    "silu": (nn.functional.silu, "Silu"),
    "elu": (nn.functional.elu, "Elu"),
    "softmax": (lambda x: x.softmax(1), "Softmax"),
    "attention": (attention, "ScaledDotProduct.*"),
    "layer norm": (nn.LayerNorm(4), r"LayerNorm \(of\)"),
    "group norm": (nn.GroupNorm(2, 4), r"GroupNorm \(of\)"),
    "instance norm": (lambda x: nn.functional.instance_norm(x.unflatten(1, (2, 2))).flatten(1), "NativeBatchNorm by"),
    "gating": (lambda x: x * x.relu(), "Mul of two activations"),
    "normalised": (lambda x: x / x.abs().sum(1, keepdim=True), "Div by an activation"),
    "square": (torch.square, "Pow"),
    "relu6": (nn.functional.relu6, "Hardtanh"),
    "shifted bend": (lambda x: x.clamp_min(0.1), "ClampMin"),
    "unknown": (lambda x: Halved.apply(x), "Halved"),
}


class Halved(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x / 2

    @staticmethod
    def backward(ctx, gradient):
        return gradient / 2


@pytest.mark.parametrize(("of", "named"), BREAKING.values(), ids=BREAKING)
@pytest.mark.filterwarnings("ignore::fsbench.sharpness.derivatives.logit_hessian.GaussNewtonWarning")
def test_what_breaks_the_invariance_is_named(of, named):
    it = built(lambda: Applied(of))
    h = diagonal({name: torch.ones_like(p) for name, p in it.parameters.items()})
    with pytest.warns(NotInvariantWarning, match=f"not known to be positively homogeneous: {named}") as caught:
        found = normalized_sharpness(it, diagonal=h)
    assert str(caught[0].message) in found.notes
    with pytest.warns(NotInvariantWarning, match="matrix-normalized sharpness is not invariant"):
        matrix_normalized_sharpness(it, diagonal=h)


HOLDING = {
    "relu": nn.functional.relu,
    "in place": lambda x: nn.functional.relu_(x),
    "leaky": nn.LeakyReLU(0.3),
    "prelu": nn.PReLU(4),
    "clamp": lambda x: x.clamp(min=0),
    "residual": lambda x: x + torch.relu(x),
    "max-pooling": lambda x: nn.functional.max_pool1d(x[:, None], 3, 1, 1)[:, 0],
    "average-pooling": lambda x: nn.functional.avg_pool1d(x[:, None], 3, 1, 1)[:, 0],
    "batch norm": nn.BatchNorm1d(4),
    "times a constant": lambda x: x * 3.0 / 7.0,
    "concatenation": lambda x: torch.cat([x[:, :2], x[:, 2:].relu()], 1),
    "maxout": lambda x: torch.maximum(x, -x),
}


@pytest.mark.parametrize("of", HOLDING.values(), ids=HOLDING)
def test_what_does_not_break_it_is_not_warned_of(of):
    it = built(lambda: Applied(of))
    h = diagonal({name: torch.ones_like(p) for name, p in it.parameters.items()})
    normalized_sharpness(it, diagonal=h)


def test_modules_of_a_kind_are_named_together():
    model = nn.Sequential(
        *(nn.Flatten(), nn.Linear(72, 4), nn.GELU(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.GELU()),
        nn.Linear(4, 4),
    )
    assert inhomogeneous_operations(built(lambda: model)) == ["GELU (2 and 1 more)", "Tanh (4)"]


def test_what_lies_outside_of_the_weights_does_not_matter():
    """Of the input alone, of weights alone, and after the last weight."""
    it = built(lambda: Applied(nn.functional.relu))
    it.model.forward = lambda x: it.model.last(
        it.model.first((x.flatten(1).sigmoid()) ** 2).relu() * it.model.last.bias.exp()
    ).tanh()
    h = diagonal({name: torch.ones_like(p) for name, p in it.parameters.items()})
    normalized_sharpness(it, diagonal=h)


def test_the_gauss_newton_note_is_passed_on():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotInvariantWarning)
        with pytest.warns(GaussNewtonWarning):
            found = normalized_sharpness(risk_of("tanh"))
    assert found.notes[-1].startswith("Gauss-Newton, not Hessian")
    assert not found.exact
    assert found.stderr == 0


@pytest.mark.parametrize("measure", [normalized_sharpness, matrix_normalized_sharpness])
def test_a_diagonal_that_does_not_fit_is_an_error(measure):
    of = risk_of("fcnn")
    h = {name: torch.ones_like(p) for name, p in of.parameters.items()}
    with pytest.raises(ValueError, match=r"diagonal has no entries for 3.weight"):
        measure(of, diagonal=diagonal({name: h[name] for name in ("1.weight", "5.weight")}))
    with pytest.raises(ValueError, match=r"diagonal of 1.weight has shape \(1,\), not \(5, 72\)"):
        measure(of, diagonal=diagonal(h | {"1.weight": torch.ones(1)}))


def test_a_network_without_trained_matrices_is_refused():
    of = built(lambda: Applied(nn.functional.relu))
    for layer in (of.model.first, of.model.last):
        layer.weight.requires_grad_(False)
    of = Risk(of.model, of.loss_fn, of.batches)
    with pytest.raises(Refused, match="no trained weight matrix"):
        normalized_sharpness(of)


def test_leaves_the_network_as_it_was():
    of = risk_of("resnet")
    before = {name: value.clone() for name, value in of.model.state_dict().items()}
    normalized_sharpness(of)
    matrix_normalized_sharpness(of)
    for name, value in of.model.state_dict().items():
        assert torch.equal(value, before[name])
    assert all(p.grad is None and p.requires_grad for p in of.model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in of.model.modules())


@pytest.mark.parametrize("name", ["grouped", "depthwise", "up", "grouped_up", "line", "head"])
def test_convolutions_are_summed_to_pairs_of_channels(name):
    layer = channels().get_submodule(name)
    values = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)).double()
    torch.testing.assert_close(WeightMatrix("weight", layer).summed(values), by_channels(layer, values))
