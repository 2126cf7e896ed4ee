from __future__ import annotations

import math

import pytest
from scipy import stats

from fsbench.report.statistics import pearson


def test_pearson_with_fishers_interval() -> None:
    x, y = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [1.2, 1.9, 3.5, 3.2, 5.4, 5.1]
    found, expected = pearson(x, y), stats.pearsonr(x, y)
    interval = expected.confidence_interval(0.95)
    assert found.r == pytest.approx(expected.statistic, rel=1e-12)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)
    # By hand, from r alone: artanh r ± 1.96 / sqrt(3).
    assert found.low == pytest.approx(math.tanh(math.atanh(found.r) - 1.959964 / math.sqrt(3)), rel=1e-6)
    assert found.n == 6


def test_pearson_of_tiny_and_huge_values() -> None:
    assert pearson([1e-200, 2e-200, 4e-200], [1e150, 2e150, 4e150]).r == pytest.approx(1)


CORRELATIONS = {
    "two points": ([1.0, 2.0], [1.0, 2.0], math.nan, math.nan, 2),
    "constant": ([1.0, 1.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0], math.nan, math.nan, 4),
    "three points have no interval": ([1.0, 2.0, 4.0], [1.0, 2.0, 4.0], 1.0, math.nan, 3),
    "exact": ([1.0, 2.0, 3.0, 4.0], [-2.0, -4.0, -6.0, -8.0], -1.0, -1.0, 4),
    "what is not finite is left out": ([1.0, math.nan, 2.0, 3.0], [1.0, 2.0, -math.inf, 3.0], math.nan, math.nan, 2),
}


@pytest.mark.parametrize(("x", "y", "r", "low", "n"), CORRELATIONS.values(), ids=CORRELATIONS)
def test_pearson_at_its_edges(x, y, r, low, n) -> None:
    found = pearson(x, y)
    assert (found.r, found.low) == pytest.approx((r, low), nan_ok=True)
    assert found.n == n
