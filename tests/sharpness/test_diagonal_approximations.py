"""Differences of gradients: their formula where it is exact, their statistics where they are random."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fsbench.sharpness.diagonal import difference_diagonals
from fsbench.sharpness.estimate import Diagonal, Refused
from fsbench.sharpness.risk import Risk
from sharpness.derivatives.test_hessian_operator import Changing, dense_hessian, flipped, hessian_of, state_of
from sharpness.networks import CLASSES, NETWORKS, SMOOTH, batches, risk_of


def difference_diagonal(risk: Risk, **options) -> Diagonal:
    *_, (_, last) = difference_diagonals(risk, **options)
    return last


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors.values()])


def squared_error(output: Tensor, y: Tensor) -> Tensor:
    return (output - nn.functional.one_hot(y, CLASSES)).square().sum(1).mean()


def quadratic(zero_bias: bool = False) -> Risk:
    """A risk whose gradient is linear in w, so that a difference of gradients is H v whatever the radius."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(72, CLASSES)).double().eval()
    with torch.no_grad():
        model[1].weight[1, 3] = 0
        if zero_bias:
            model[1].bias.zero_()
    return Risk(model, squared_error, batches())


def scales(risk: Risk, form: str) -> Tensor:
    """What the entries of a probe are multiplied by, besides r."""
    found = []
    if form == "2019 as evaluated":
        return torch.ones(sum(p.numel() for p in risk.weights)).double()
    for p in risk.weights:
        w = p.detach()
        typical = w.norm() / w.numel() ** 0.5
        if not w.any():
            typical = torch.cat([q.detach().flatten() for q in risk.weights]).square().mean().sqrt()
        found.append(torch.full_like(w, float(typical)) if form == "2019" else w.abs().where(w != 0, typical))
    return torch.cat([a.flatten() for a in found])


def probes(risk: Risk, count: int, form: str, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    size = sum(p.numel() for p in risk.weights)
    if form.startswith("2019"):
        return torch.stack([torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(count)])
    return torch.stack([2 * torch.empty(size).bernoulli_(0.5, generator=generator).double() - 1 for _ in range(count)])


@pytest.mark.parametrize("form", ["2019", "2020", "2019 as evaluated"])
@pytest.mark.parametrize("zero_bias", [False, True], ids=["bias", "bias of zeros"])
@pytest.mark.parametrize("radius", [1e-3, 0.5])
def test_formula(form, zero_bias, radius):
    risk = quadratic(zero_bias)
    hessian, a, e = hessian_of(risk), scales(risk, form), probes(risk, 7, form, seed=6)
    draws = e * ((e * a) @ hessian) / a
    mean, error = draws.mean(0), draws.std(0) / 7**0.5
    found = difference_diagonal(risk, probes=7, radius=radius, seed=6, form=form)
    torch.testing.assert_close(flat(found.values), mean.clamp(min=0) if form == "2020" else mean, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(flat(found.stderr), error, rtol=1e-7, atol=1e-8)
    assert (found.samples, found.exact, found.seed, found.method) == (7, False, 6, f"differences, {form}")
    assert found.negative == (0 if form == "2020" else int((mean < 0).sum()))


def test_formula_as_evaluated():
    risk = quadratic()
    risk.model[1].weight.data[1, 3] = 1e-3
    hessian, e = hessian_of(risk), probes(risk, 5, "2020", seed=6)
    w = torch.cat([p.detach().flatten() for p in risk.weights])
    reference = (e * (2e-5 * e @ hessian) / (2e-5 * w.abs() + 1e-8)).mean(0).clamp(min=0)
    found = difference_diagonal(risk, probes=5, seed=6, form="2020 as evaluated")
    torch.testing.assert_close(flat(found.values), reference, rtol=1e-4, atol=1e-4)
    assert "not of H_ii" in found.notes[0]


@pytest.mark.parametrize("name", [*NETWORKS, *SMOOTH])
def test_2019_is_unbiased(name):
    risk = risk_of(name)
    before = state_of(risk.model)
    found = difference_diagonal(risk, probes=64, seed=2, radius=1e-6)
    assert state_of(risk.model) == before
    reference, error = dense_hessian(name).diag(), flat(found.stderr)
    used = error > 1e-9  # a weight that nothing depends on has no spread
    assert float((flat(found.values) - reference)[~used].abs().max() if (~used).any() else 0) < 1e-6
    deviations = ((flat(found.values) - reference) / error)[used]
    assert float(deviations.square().mean().sqrt()) == pytest.approx(1, abs=0.25)
    assert float(deviations.abs().max()) < 6


def test_2020_is_unbiased_before_it_is_clipped():
    risk = risk_of("tanh")
    reference = dense_hessian("tanh").diag()
    found = difference_diagonal(risk, probes=256, form="2020", seed=1, radius=1e-4)
    values, error = flat(found.values), flat(found.stderr)
    assert float(values.min()) == 0.0
    kept = values > 0
    # Where nothing was clipped away in expectation either.
    sure = kept & (reference > 5 * error)
    assert int(sure.sum()) > 10
    assert float(((values - reference) / error)[sure].square().mean().sqrt()) == pytest.approx(1, abs=0.4)


def test_running_estimates():
    risk = risk_of("lenet")
    found = list(difference_diagonals(risk, probes=11, seed=4))
    assert [count for count, _ in found] == [1, 2, 4, 8, 11]
    assert [d.samples for _, d in found] == [1, 2, 4, 8, 11]
    assert flat(found[0][1].stderr).isnan().all()
    for count, diagonal in found:
        alone = difference_diagonal(risk, probes=count, seed=4)
        assert torch.equal(flat(alone.values), flat(diagonal.values))
    assert not torch.equal(flat(found[-1][1].values), flat(found[-2][1].values))


def test_memory_does_not_change_the_probes():
    risk = risk_of("lenet")
    reference = difference_diagonal(risk, probes=9, seed=4)
    risk.memory = 20_000
    small = difference_diagonal(risk, probes=9, seed=4)
    torch.testing.assert_close(flat(small.values), flat(reference.values), rtol=1e-5, atol=1e-8)


def test_weights_come_back_after_an_exception():
    calls = 0

    def failing(output: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 14:  # within the evaluations at displaced weights
            raise ZeroDivisionError
        return nn.functional.cross_entropy(output, y)

    risk = risk_of("lenet", failing)
    before = state_of(risk.model)
    with pytest.raises(ZeroDivisionError):
        difference_diagonal(risk, probes=9)
    assert state_of(risk.model) == before


def test_random_augmentation_is_refused():
    risk = Risk(NETWORKS["lenet"](), nn.functional.cross_entropy, Changing(flipped))
    with pytest.raises(Refused, match="batches yield other examples"):
        difference_diagonal(risk, probes=4)


def test_default_radius():
    risk = risk_of("tanh")
    for form, radius in (("2019", 0.01), ("2020", 0.01), ("2019 as evaluated", 1e-5), ("2020 as evaluated", 1e-5)):
        default = difference_diagonal(risk, probes=2, form=form)
        assert torch.equal(
            flat(default.values), flat(difference_diagonal(risk, probes=2, form=form, radius=radius).values)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"probes": 0}, "probes=0: must be at least 1"),
        ({"probes": 1, "radius": 0.0}, "radius=0.0: must be a finite number > 0"),
        ({"probes": 1, "form": "2021"}, "form=2021: must be one of 2019, 2020, 2019 as evaluated, 2020 as evaluated"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        difference_diagonals(risk_of("fcnn"), **arguments)
