"""Minimum sharpness against dense Hessians of rescaled networks."""

from __future__ import annotations

import copy
import math
import warnings

import pytest
import torch
from torch import nn

from fsbench.sharpness.derivatives.surrogate_loss import normalized_softmax_cross_entropy
from fsbench.sharpness.estimate import Estimate, Refused
from fsbench.sharpness.minimum import minimum_sharpness
from fsbench.sharpness.rescaling.homogeneous_operations import NotInvariantWarning
from fsbench.sharpness.risk import Risk
from fsbench.sharpness.trace import hessian_trace
from sharpness.networks import NETWORKS, batches, by_tensor, dense_hessian, risk_of

CHAINS = {
    "fcnn": ["1", "3", "5"],
    "fcnn_bias": ["1", "3", "5"],
    "lenet": ["0", "3", "6", "8"],
    "lenet_no_bias": ["0", "3", "6", "8"],
    "tokens": ["embed", "mix", "head"],
    "unused": ["used.1", "used.3", "used.5"],
}


def risk(model: nn.Module) -> Risk:
    return Risk(model, nn.functional.cross_entropy, batches())


def dense_parts(of: Risk) -> dict[str, float]:
    return {name: float(part.sum()) for name, part in by_tensor(of, dense_hessian(of).diagonal()).items()}


@torch.no_grad()
def rescaled(model: nn.Module, layers: list[str], log_scales: list[float]) -> nn.Module:
    """alpha_d W_d, and b_d times the product of the alphas up to d."""
    model = copy.deepcopy(model)
    product = 1.0
    for layer, log_scale in zip(layers, log_scales, strict=True):
        product *= math.exp(log_scale)
        module = model.get_submodule(layer)
        module.weight *= math.exp(log_scale)
        if module.bias is not None:
            module.bias *= product
    return model


@pytest.mark.parametrize("name", ["fcnn", "lenet_no_bias"])
def test_without_biases_is_theorem_1(name):
    of = risk_of(name)
    parts = dense_parts(of)
    found = minimum_sharpness(of)
    assert found.value == pytest.approx(len(parts) * math.prod(parts.values()) ** (1 / len(parts)), rel=1e-9)
    for name in parts:
        assert found.per_layer[name] == pytest.approx(found.value / len(parts), rel=1e-9)


@pytest.mark.parametrize("name", CHAINS)
def test_is_the_trace_of_the_rescaled_network_and_the_least_of_all(name):
    model, layers = NETWORKS[name](), CHAINS[name]
    of = risk(model)
    found = minimum_sharpness(of)
    scales = [found.details[f"ln_alpha {layer}.weight"] for layer in layers]
    assert sum(scales) == pytest.approx(0, abs=1e-12)
    there = rescaled(model, layers, scales)
    x, _ = batches()[0]
    torch.testing.assert_close(there(x), model(x), rtol=1e-10, atol=1e-12)
    parts = dense_parts(risk(there))
    assert found.value == pytest.approx(sum(parts.values()), rel=1e-9)
    assert found.per_layer == pytest.approx(parts, rel=1e-9, abs=1e-15)
    assert found.details["trace"] == pytest.approx(hessian_trace(of).value, rel=1e-12)
    assert list(found.per_layer) == of.names
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step = 0.05 * torch.randn(len(layers), generator=generator, dtype=torch.float64)
        other = rescaled(model, layers, (torch.tensor(scales).double() + step - step.mean()).tolist())
        assert hessian_trace(risk(other)).value > found.value
    assert (found.exact, found.stderr, found.samples) == (True, 0.0, 21)


def test_another_loss():
    of = risk_of("lenet_no_bias", nn.CrossEntropyLoss(label_smoothing=0.2))
    parts = dense_parts(of)
    assert minimum_sharpness(of).value == pytest.approx(4 * math.prod(parts.values()) ** 0.25, rel=1e-9)


def test_a_trace_can_be_handed_in():
    of = risk_of("lenet")
    assert minimum_sharpness(of, trace=hessian_trace(of)).value == minimum_sharpness(of).value


def test_a_trace_with_an_error_gives_none_of_its_own():
    of = risk_of("lenet")
    trace = hessian_trace(of, classes=3, seed=5)
    found = minimum_sharpness(of, trace=trace)
    assert math.isnan(found.stderr)
    assert (found.exact, found.seed, found.samples) == (False, 5, 3)
    assert "no standard error: that of the trace is not known layer by layer" in found.notes


def normed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model = nn.Sequential(
            nn.Conv2d(2, 3, 3, bias=False),
            nn.BatchNorm2d(3),
            nn.ReLU(inplace=True),
            nn.Flatten(),
            nn.Linear(48, 5),
            nn.BatchNorm1d(5),
            nn.ReLU(),
            nn.Linear(5, 4),
        )
        for norm in (model[1], model[5]):
            nn.init.uniform_(norm.running_mean, -0.3, 0.3)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.3, 0.3)
        return model.double().eval()


def test_batchnorm_is_folded():
    """By hand: W gamma / sigma, beta + (b - mean) gamma / sigma, as a network of its own."""
    model = normed()
    plain = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.ReLU(), nn.Linear(5, 4)
    ).double()
    with torch.no_grad():
        for new, old, norm in ((plain[0], model[0], model[1]), (plain[3], model[4], model[5])):
            factor = norm.weight / (norm.running_var + norm.eps).sqrt()
            new.weight.copy_(old.weight * factor.view(-1, *[1] * (old.weight.dim() - 1)))
            new.bias.copy_(norm.bias + ((0 if old.bias is None else old.bias) - norm.running_mean) * factor)
        plain[5].load_state_dict(model[7].state_dict())
    of = risk(model)
    found, expected = minimum_sharpness(of, trace=hessian_trace(of)), minimum_sharpness(risk(plain.eval()))
    assert found.value == pytest.approx(expected.value, rel=1e-10)
    assert list(found.per_layer.values()) == pytest.approx(list(expected.per_layer.values()), rel=1e-10)
    assert set(found.per_layer) == {f"{layer}.{tensor}" for layer in (0, 4, 7) for tensor in ("weight", "bias")}
    assert found.notes == (
        "BatchNorm folded into 0, 4",
        "the trace is that of the folded network, not the one handed in",
    )
    # Left alone, the scale before the BatchNorm would make the trace as small as one likes.
    before = hessian_trace(of).per_layer["0.weight"]
    with torch.no_grad():
        model[0].weight *= 1000
        model[1].running_mean *= 1000
        model[1].running_var *= 1000**2
        model[1].eps *= 1000**2
    assert hessian_trace(of).per_layer["0.weight"] == pytest.approx(before / 1e6, rel=1e-6)
    assert minimum_sharpness(of).value == pytest.approx(found.value, rel=1e-9)


def four(bias: bool = False) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(8)
        return (
            nn.Sequential(
                nn.Flatten(),
                nn.Linear(72, 5, bias=bias),
                nn.ReLU(),
                nn.Linear(5, 5, bias=bias),
                nn.ReLU(),
                nn.Linear(5, 6, bias=bias),
                nn.ReLU(),
                nn.Linear(6, 4, bias=bias),
            )
            .double()
            .eval()
        )


def test_a_frozen_layer_passes_the_scale_on():
    model = four()
    model[3].requires_grad_(False)
    of = risk(model)
    parts = dense_parts(of)
    found = minimum_sharpness(of)
    assert found.value == pytest.approx(3 * math.prod(parts.values()) ** (1 / 3), rel=1e-9)
    assert found.notes[0] == "not trained, and so not rescaled: 3.weight"
    assert list(found.per_layer) == ["1.weight", "5.weight", "7.weight"]


def test_a_trained_bias_after_a_frozen_weight_goes_with_the_layer_before():
    model = four(bias=True)
    model[3].weight.requires_grad_(False)
    of = risk(model)
    found = minimum_sharpness(of)
    layers = ["1", "3", "5", "7"]
    scales = [found.details.get(f"ln_alpha {layer}.weight", 0.0) for layer in layers]
    parts = dense_parts(risk(rescaled(model, layers, scales)))
    assert found.per_layer == pytest.approx(parts, rel=1e-9)
    assert found.value == pytest.approx(sum(parts.values()), rel=1e-9)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        step = 0.05 * torch.randn(3, generator=generator, dtype=torch.float64)
        a, b, c = (step - step.mean()).tolist()
        other = rescaled(model, layers, [scales[0] + a, 0.0, scales[2] + b, scales[3] + c])
        assert hessian_trace(risk(other)).value > found.value


def test_a_frozen_bias_fixes_the_scale():
    model = four(bias=True)
    for layer in (1, 3, 5, 7):
        model[layer].bias.requires_grad_(False)
    model[1].bias.data.zero_()
    model[5].bias.data.zero_()
    of = risk(model)
    first, second, third, fourth = dense_parts(of).values()
    found = minimum_sharpness(of)
    assert found.value == pytest.approx(2 * math.sqrt(first * second) + 2 * math.sqrt(third * fourth), rel=1e-9)
    assert found.notes[0] == "the scale is fixed where a bias that is not zero is not trained: 3.bias, 7.bias"


def test_nothing_to_rescale_is_the_trace():
    """The frozen layer's frozen bias ends the stretch of the first layer; the last has nothing to trade with."""
    of = risk_of("frozen")
    assert minimum_sharpness(of).value == pytest.approx(hessian_trace(of).value, rel=1e-12)
    model = four(bias=True)
    for layer in (1, 3, 5, 7):
        model[layer].weight.requires_grad_(False)
    of = risk(model)
    found = minimum_sharpness(of)
    assert found.value == pytest.approx(hessian_trace(of).value, rel=1e-12)
    assert found.per_layer == pytest.approx(hessian_trace(of).per_layer, rel=1e-12)


def test_the_slope_of_a_prelu_adds_a_constant():
    model = four()
    model[2] = nn.PReLU(5).double()
    of = risk(model)
    parts = dense_parts(of)
    slope = parts.pop("2.weight")
    found = minimum_sharpness(of)
    assert found.value == pytest.approx(4 * math.prod(parts.values()) ** 0.25 + slope, rel=1e-9)
    assert found.per_layer["2.weight"] == pytest.approx(slope, rel=1e-9)
    with torch.no_grad():
        model[1].weight *= 50
        model[3].weight /= 50
    assert minimum_sharpness(of).value == pytest.approx(found.value, rel=1e-9)


def estimate(of: Risk, **parts: float) -> Estimate:
    layers = {name: parts.get(f"w{name[0]}", 1.0) for name in of.names}
    return Estimate(sum(layers.values()), 0.0, 3, True, layers)


def test_a_layer_without_curvature_makes_it_zero_in_the_limit():
    of = risk(four())
    found = minimum_sharpness(of, trace=estimate(of, w3=0.0))
    assert found.value == 0
    assert found.notes == ("the infimum is approached in the limit only: the trace is zero for 3.weight",)
    assert found.details["ln_alpha 3.weight"] == -math.inf


def test_a_negative_part_has_no_minimum():
    of = risk(four())
    with pytest.raises(Refused, match=r"the trace for 3.weight is -0.5: with a negative part there is no minimum"):
        minimum_sharpness(of, trace=estimate(of, w3=-0.5))
    rounding = minimum_sharpness(of, trace=estimate(of, w3=-1e-15))
    assert rounding.value == 0


def test_the_surrogate_loss_may_have_no_minimum():
    of = risk_of("fcnn_bias", normalized_softmax_cross_entropy)
    if min(dense_parts(of).values()) < 0:
        with pytest.raises(Refused, match="with a negative part there is no minimum"):
            minimum_sharpness(of)


def test_a_trace_that_lacks_a_layer_is_an_error():
    of = risk(four())
    with pytest.raises(ValueError, match=r"trace has no part for 1\.weight"):
        minimum_sharpness(of, trace=Estimate(1.0, 0.0, 3, True))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet", r"lost between 3\.bn2 and 3\.relu \(a residual sum"),
        ("tied", r"shared \(Linear\) is used 2 times"),
        ("functional", r"shift \(Functional\) is trained"),
        ("gelu", r"4\.weight \(LayerNorm\) is trained"),
        ("tanh", r"lost in 2 \(Tanh\)"),
    ],
)
def test_other_networks_are_refused_by_name(name, message):
    of = risk_of(name)
    with pytest.raises(Refused, match=message):
        minimum_sharpness(of)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in of.model.modules())


def test_batchnorm_that_cannot_be_folded_is_refused_by_name():
    model = normed()
    model[1], model[2] = model[2], model[1]
    with pytest.raises(Refused, match=r"2 \(BatchNorm2d\) can't be folded"):
        minimum_sharpness(risk(model))


def test_what_may_bend_elsewhere_is_warned_of():
    """The examples do not reach the bend, at any scale that is tried."""
    model = four()
    model[2] = nn.Hardtanh(-1e9, 1e9)
    with pytest.warns(NotInvariantWarning, match=r"minimum sharpness is not invariant .*: Hardtanh \(2\)"):
        found = minimum_sharpness(risk(model))
    assert "Hardtanh (2)" in found.notes[0]


@pytest.mark.parametrize("name", ["lenet", "normed"])
def test_leaves_the_network_as_it_was(name):
    model = normed() if name == "normed" else NETWORKS[name]()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minimum_sharpness(risk(model))
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert not any(module.training for module in model.modules())
