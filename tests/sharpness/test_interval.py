"""The interval of an estimate holds the truth as often as it says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fsbench.sharpness import Estimate, Risk, fisher_log_determinant, hessian_spectral_radius, hessian_trace

# 200 draws put 95 % anywhere from 92 to 98; 2,000 of these: 95.7, 95.0, 94.6, 94.0, 94.8 % in the order of `WAYS`.
SEEDS = range(200, 400)


def trained_a_little() -> Risk:
    """100 examples of 5 classes, the network sure of some of them."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        x = torch.randn(100, 12).double()
        y = (x @ torch.randn(12, 5).double()).argmax(1)
        model = nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 5)).double()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(40):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return Risk(model.eval(), nn.functional.cross_entropy, [(x, y)])


WAYS = {
    "2 of 5 classes": {"classes": 2},
    "3 of 5 classes": {"classes": 3},
    "4 of 5 classes": {"classes": 4},
    "5 probes": {"method": "hutchinson", "probes": 5},
    "10 probes": {"method": "hutchinson", "probes": 10},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_the_trace_lies_in_95_percent_of_the_intervals(way) -> None:
    risk = trained_a_little()
    exact = hessian_trace(risk).value
    found = [hessian_trace(risk, seed=seed, **way).interval() for seed in SEEDS]
    assert 0.93 <= sum(low <= exact <= high for low, high in found) / len(SEEDS) <= 0.97


@pytest.mark.parametrize("measure", [fisher_log_determinant, hessian_spectral_radius])
def test_subsets_likewise(measure) -> None:
    risk = trained_a_little()
    expected = measure(risk, subset_size=10, subsets=2000, seed=0).value
    found = [measure(risk, subset_size=10, subsets=5, seed=seed).interval() for seed in SEEDS]
    assert 0.92 <= sum(low <= expected <= high for low, high in found) / len(SEEDS) <= 0.98


def test_student_and_what_is_certain() -> None:
    assert Estimate(3.0, 0.5, 2, False, degrees=1).interval() == pytest.approx((3 - 6.3531, 3 + 6.3531), abs=1e-4)
    assert Estimate(3.0, 0.5, 9, False).interval(0.9) == pytest.approx((3 - 0.8224, 3 + 0.8224), abs=1e-4)
    assert Estimate(3.0, 0.0, 9, True).interval() == (3.0, 3.0)
    assert all(map(math.isnan, Estimate(3.0, math.nan, 1, False).interval()))
    with pytest.raises(ValueError, match="level=95: must lie between 0 and 1"):
        Estimate(3.0, 0.5, 9, False).interval(95)
