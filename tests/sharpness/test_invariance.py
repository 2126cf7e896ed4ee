"""The invariances that the measures promise, where the trace of the Hessian moves by orders of magnitude."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fsbench.sharpness.derivatives.surrogate_loss import normalized_softmax_cross_entropy
from fsbench.sharpness.estimate import Estimate
from fsbench.sharpness.matrix_normalized import matrix_normalized_sharpness
from fsbench.sharpness.minimum import minimum_sharpness
from fsbench.sharpness.normalized import normalized_sharpness
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.trace import hessian_trace
from sharpness.networks import NETWORKS, batches

Measure = Callable[[Risk], Estimate]

# Layers that follow one another, and how many inputs of the next belong to an output of each.
CHAINS = {
    "fcnn": [("1", 1), ("3", 1), ("5", 1)],
    "fcnn_bias": [("1", 1), ("3", 1), ("5", 1)],
    "lenet": [("0", 1), ("3", 4), ("6", 1), ("8", 1)],
    "lenet_no_bias": [("0", 1), ("3", 4), ("6", 1), ("8", 1)],
}


def risk(model: nn.Module) -> Risk:
    return Risk(model, nn.functional.cross_entropy, batches())


def spread(count: int, seed: int) -> Tensor:
    """Factors between 0.01 and 100."""
    generator = torch.Generator().manual_seed(seed)
    return 10 ** (4 * torch.rand(count, generator=generator, dtype=torch.float64) - 2)


@torch.no_grad()
def rescale_layers(model: nn.Module, name: str) -> None:
    layers = [model.get_submodule(layer) for layer, _ in CHAINS[name]]
    factors = torch.logspace(2, -2, len(layers), dtype=torch.float64)
    for layer, factor, product in zip(layers, factors, factors.cumprod(0), strict=True):
        layer.weight *= factor
        if layer.bias is not None:
            layer.bias *= product


@torch.no_grad()
def rescale_rows_and_columns(model: nn.Module, name: str) -> None:
    """Section 5.1: a row of one matrix by 1/alpha, and its bias, the matching column of the next by alpha."""
    chain = CHAINS[name]
    for seed, ((layer, each), (following, _)) in enumerate(itertools.pairwise(chain)):
        this, following = model.get_submodule(layer), model.get_submodule(following)
        factors = spread(len(this.weight), seed)
        this.weight /= factors.view(-1, *[1] * (this.weight.dim() - 1))
        if this.bias is not None:
            this.bias /= factors
        following.weight *= factors.repeat_interleave(each).view(1, -1, *[1] * (following.weight.dim() - 2))


@torch.no_grad()
def rescale_logits(model: nn.Module, name: str) -> None:
    last = model.get_submodule(CHAINS[name][-1][0])
    last.weight *= 30
    if last.bias is not None:
        last.bias *= 30


@torch.no_grad()
def shift_logits(model: nn.Module, name: str) -> None:
    last = model.get_submodule(CHAINS[name][-1][0])
    if last.bias is None:
        last.weight += torch.randn(last.weight.shape[1], generator=torch.Generator().manual_seed(0)).double()
    else:
        last.bias += 30


def same_logits(name: str, change: Callable[[nn.Module, str], None]) -> tuple[Risk, Risk]:
    model, other = NETWORKS[name](), NETWORKS[name]()
    change(other, name)
    x, _ = batches()[0]
    torch.testing.assert_close(other(x), model(x), rtol=1e-9, atol=1e-11)
    return risk(model), risk(other)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize(
    "measure", [minimum_sharpness, matrix_normalized_sharpness, normalized_sharpness], ids=lambda m: m.__name__
)
def test_rescaling_layers(name, measure):
    one, other = same_logits(name, rescale_layers)
    assert measure(other).value == pytest.approx(measure(one).value, rel=1e-8)
    assert hessian_trace(other).value > 100 * hessian_trace(one).value


@pytest.mark.parametrize("name", CHAINS)
def test_rescaling_rows_and_columns(name):
    one, other = same_logits(name, rescale_rows_and_columns)
    before, after = normalized_sharpness(one), normalized_sharpness(other)
    assert after.value == pytest.approx(before.value, rel=1e-8)
    assert after.per_layer == pytest.approx(before.per_layer, rel=1e-8)
    assert hessian_trace(other).value > 30 * hessian_trace(one).value
    # Minimum sharpness does not see through this.
    assert minimum_sharpness(other).value > 2 * minimum_sharpness(one).value


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("change", [rescale_logits, shift_logits], ids=lambda c: c.__name__)
def test_scale_and_shift_of_the_logits(name, change):
    model, other = NETWORKS[name](), NETWORKS[name]()
    change(other, name)
    x, y = batches()[0]
    loss = normalized_softmax_cross_entropy
    with torch.no_grad():
        assert not torch.allclose(model(x), other(x))
        assert float(loss(other(x), y)) == pytest.approx(float(loss(model(x), y)), rel=1e-12)
    before, after = normalized_sharpness(risk(model)), normalized_sharpness(risk(other))
    last = f"{CHAINS[name][-1][0]}.weight"
    if change is rescale_logits:
        assert after.value == pytest.approx(before.value, rel=1e-8)
        # The trace is not invariant, neither for this loss nor for cross-entropy.
        trace, moved = (hessian_trace(Risk(m, loss, batches())).per_layer[last] for m in (model, other))
        assert moved == pytest.approx(trace / 900, rel=1e-8)
        trace, moved = (hessian_trace(risk(m)).value for m in (model, other))
        assert not 0.5 < moved / trace < 2
    elif model.get_submodule(CHAINS[name][-1][0]).bias is not None:
        assert after.value == pytest.approx(before.value, rel=1e-8)
    else:
        # The shift went into the last matrix, which is another one now.
        for weight in before.per_layer.keys() - {last}:
            assert after.per_layer[weight] == pytest.approx(before.per_layer[weight], rel=1e-8)


class Branches(nn.Module):
    """y = ReLU(W1 x) + ReLU(W2 x), eq. 26."""

    def __init__(self, first: Tensor, second: Tensor) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(72, 4, bias=False, dtype=torch.float64) for _ in range(2))
        with torch.no_grad():
            self.first.weight.copy_(first)
            self.second.weight.copy_(second)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return torch.relu(self.first(x)) + torch.relu(self.second(x))


@pytest.mark.parametrize("measure", [normalized_sharpness, matrix_normalized_sharpness], ids=lambda m: m.__name__)
def test_splitting_a_matrix(measure):
    """Section 7.3: (W/2, W/2) -> (W, 0) computes the same and keeps both measures."""
    weight = torch.randn(4, 72, generator=torch.Generator().manual_seed(6), dtype=torch.float64) / 8
    halves = Branches(weight / 2, weight / 2).eval()
    whole = Branches(weight, torch.zeros_like(weight)).eval()
    x, _ = batches()[0]
    torch.testing.assert_close(whole(x), halves(x))
    before, after = measure(risk(halves)), measure(risk(whole))
    assert after.value == pytest.approx(before.value, rel=1e-9)
    assert after.per_layer["second.weight"] == 0
    assert before.value > 0
    assert hessian_trace(risk(whole)).value == pytest.approx(hessian_trace(risk(halves)).value / 2, rel=1e-9)
