"""What is made of single examples' gradients, against those gradients written out."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn

from fsbench.sharpness import (
    Refused,
    Risk,
    fisher_log_determinant,
    fisher_rao_norm,
    fisher_trace,
    hessian_frobenius_norm,
    hessian_spectral_radius,
    input_robustness,
)
from sharpness.networks import NETWORKS, SMOOTH, batches, risk_of, whole

CE = nn.functional.cross_entropy
ALL = [*NETWORKS, *SMOOTH]


def rows(risk: Risk, loss=None) -> Tensor:
    """d loss_i / dw, (N, W)."""
    found = []
    for x, y in risk.batches:
        for i in range(len(y)):
            value = (loss or risk.loss_fn)(risk.model(x[i : i + 1]), y[i : i + 1])
            parts = torch.autograd.grad(value, risk.weights, materialize_grads=True)
            found.append(torch.cat([part.flatten() for part in parts]))
    return torch.stack(found)


def by_hand(j: Tensor, w: Tensor) -> dict[str, Tensor]:
    n = len(j)
    return {
        "trace": j.square().sum(1).mean(),
        "rao": (w.square() * j.square().mean(0)).sum(),
        "determinant": torch.linalg.slogdet(j @ j.T)[1],
        "spectral": torch.linalg.matrix_norm(j, 2).square(),
        "per_example": j.square().sum(1).square().mean(),
        "fisher": (j.T @ j / n).square().sum(),
    }


WHOLE = {"subset_size": 21, "subsets": 2}


LOSSES = {
    "plain": CE,
    "smoothed": nn.CrossEntropyLoss(label_smoothing=0.1),
    "partial": functools.partial(CE, label_smoothing=0.2),
}


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", ALL)
def test_equals_gradients_written_out(name, loss) -> None:
    risk = risk_of(name, LOSSES[loss])
    expected = by_hand(rows(risk), torch.cat([p.detach().flatten() for p in risk.weights]))
    found = {
        "trace": fisher_trace(risk),
        "rao": fisher_rao_norm(risk),
        "determinant": fisher_log_determinant(risk, **WHOLE),
        "spectral": hessian_spectral_radius(risk, **WHOLE),
        "per_example": hessian_frobenius_norm(risk),
        "fisher": hessian_frobenius_norm(risk, "fisher", **WHOLE),
    }
    for key, value in found.items():
        assert value.value == pytest.approx(float(expected[key]), rel=1e-9), key
    assert sum(found["trace"].per_layer.values()) == pytest.approx(found["trace"].value, rel=1e-12)
    assert sum(found["rao"].per_layer.values()) == pytest.approx(found["rao"].value, rel=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_robustness_equals_the_jacobian(name) -> None:
    risk = risk_of(name)
    x, _ = whole(batches())

    def prediction(one: Tensor) -> Tensor:
        return risk.model(one[None])[0].softmax(-1)

    norms = torch.stack(
        [torch.linalg.matrix_norm(torch.func.jacrev(prediction)(one).flatten(1).detach(), 2).square() for one in x]
    )
    found = input_robustness(risk)
    assert found.value == pytest.approx(float(norms.mean()), rel=1e-9)
    assert found.example_stderr == pytest.approx(float(norms.std()) / 21**0.5, rel=1e-7)


def test_logit_norm_is_differentiated_through() -> None:
    risk = risk_of("lenet")

    def scaled(o: Tensor, y: Tensor) -> Tensor:
        return CE(25 * o / o.norm(dim=-1, keepdim=True), y)

    j = rows(risk, scaled)
    found = fisher_log_determinant(risk, logit_norm=25.0, **WHOLE)
    assert found.value == pytest.approx(float(torch.linalg.slogdet(j @ j.T)[1]), rel=1e-9)
    assert found.details["sum_log_singular_values"] == pytest.approx(
        float(torch.linalg.svdvals(j).log().sum()), rel=1e-9
    )


def test_subsets_are_drawn_without_replacement_and_averaged() -> None:
    risk = risk_of("lenet")
    j = rows(risk)
    generator = torch.Generator().manual_seed(7)
    values = []
    for _ in range(6):
        some = j[torch.randperm(21, generator=generator)[:5]]
        values.append(float(torch.linalg.slogdet(some @ some.T)[1]))
    found = fisher_log_determinant(risk, subset_size=5, subsets=6, seed=7)
    expected = torch.tensor(values, dtype=torch.float64)
    assert found.value == pytest.approx(float(expected.mean()), rel=1e-9)
    assert found.stderr == pytest.approx(float(expected.std()) / 6**0.5, rel=1e-9)
    assert (found.samples, found.seed, found.exact) == (6, 7, False)
    assert found.value != fisher_log_determinant(risk, subset_size=5, subsets=6, seed=8).value


def test_subsets_do_not_depend_on_memory() -> None:
    free, tight = (Risk(NETWORKS["resnet"](), CE, batches(), memory=memory) for memory in (2**30, 3_000))
    a, b = (fisher_log_determinant(risk, subset_size=5, subsets=4) for risk in (free, tight))
    assert a.value == pytest.approx(b.value, rel=1e-10)


def test_sub_batches() -> None:
    risk = risk_of("lenet")
    j = rows(risk)
    found = fisher_trace(risk, sub_batch=6)
    means = torch.stack([j[start : start + 6].mean(0) for start in (0, 6, 12)])
    assert found.value == pytest.approx(float(means.square().sum(1).mean()), rel=1e-9)
    assert found.samples == 3
    assert not found.exact
    assert found.notes == ("3 examples at the end make no whole group and are left out",)


def test_tiny_gradients_keep_their_digits_in_float32() -> None:
    """Where 1 - p_y is 1e-12, float32 has none of it left."""
    model, data = NETWORKS["fcnn"](), batches()
    with torch.no_grad():
        model[5].weight.mul_(80)
    data = [(x, model(x).argmax(1)) for x, _ in data]
    exact = fisher_log_determinant(Risk(model, CE, data), subset_size=8, subsets=3)
    trace = fisher_trace(Risk(model, CE, data))
    single = Risk(model.float(), CE, [(x.float(), y) for x, y in data])
    assert fisher_trace(single).value == pytest.approx(trace.value, rel=1e-4)
    assert fisher_log_determinant(single, subset_size=8, subsets=3).value == pytest.approx(exact.value, abs=0.01)


def test_a_duplicate_makes_the_determinant_vanish() -> None:
    x, y = whole(batches())
    risk = Risk(NETWORKS["lenet"](), CE, [(torch.cat([x[:4], x[:1]]), torch.cat([y[:4], y[:1]]))])
    found = fisher_log_determinant(risk, subset_size=5, subsets=2)
    # Rounding may leave the smallest eigenvalue a little above zero.
    assert found.value == -math.inf or "near rounding" in found.notes[0]
    assert found.notes


def test_a_gradient_that_vanishes_makes_the_determinant_vanish() -> None:
    x, y = whole(batches())
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, 4, bias=False)).double()
    risk = Risk(model, CE, [(torch.cat([x[:3], torch.zeros_like(x[:1])]), y[:4])])
    found = fisher_log_determinant(risk, subset_size=4, subsets=2)
    assert found.value == -math.inf
    assert math.isnan(found.stderr)


REFUSED = {
    "too few examples": (lambda risk: fisher_log_determinant(risk), "subset_size=100: there are 21 examples only"),
    "too few for groups": (lambda risk: fisher_trace(risk, sub_batch=22), "there are 21 examples only"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case) -> None:
    measure, message = REFUSED[case]
    with pytest.raises(Refused, match=message):
        measure(risk_of("fcnn"))


def test_more_examples_than_weights() -> None:
    model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4, bias=False)).double().eval()
    with pytest.raises(Refused, match="8 trained weights"):
        fisher_log_determinant(Risk(model, CE, batches()), subset_size=9, subsets=1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda r: fisher_log_determinant(r, subset_size=0), "subset_size=0: must be at least 1"),
        (lambda r: hessian_spectral_radius(r, subset_size=2, subsets=0), "subsets=0: must be at least 1"),
        (lambda r: fisher_log_determinant(r, subset_size=2, logit_norm=-1.0), "logit_norm=-1.0: must be above 0"),
        (lambda r: fisher_trace(r, sub_batch=0), "sub_batch=0: must be at least 1"),
        (lambda r: hessian_frobenius_norm(r, "other"), "definition=other: must be per_example or fisher"),
    ],
    ids=["subset_size", "subsets", "logit_norm", "sub_batch", "definition"],
)
def test_bad_arguments(call, message) -> None:
    with pytest.raises(ValueError, match=message):
        call(risk_of("fcnn"))
