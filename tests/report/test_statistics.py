from __future__ import annotations

import math

import pytest
from scipy import stats

from fsbench.report.statistics import difference, pearson

A = {0: 93.1, 1: 92.4, 2: 93.7, 3: 93.0}
B = {0: 92.0, 1: 92.1, 2: 92.9, 3: 91.7}


def test_the_same_seeds_are_paired() -> None:
    # By hand: differences 1.1, 0.3, 0.8, 1.3; mean 0.875, s 0.4349329, t = 0.875 / (s / 2) = 4.0236.
    found = difference(A, dict(reversed(B.items())))
    assert (found.test, found.n, found.decided) == ("paired t-test", "4", True)
    assert found.value == pytest.approx(0.875)
    assert found.p == pytest.approx(2 * stats.t.sf(4.02361, 3), rel=1e-4)
    assert found.p == pytest.approx(stats.ttest_rel(list(A.values()), list(B.values())).pvalue, rel=1e-9)


@pytest.mark.parametrize("other", [{0: 92.0, 1: 92.1, 2: 92.9}, {5: 92.0, 6: 92.1, 7: 92.9, 8: 91.0}])
def test_other_seeds_are_welch(other) -> None:
    found = difference(A, other)
    assert (found.test, found.n) == ("Welch's t-test", f"4, {len(other)}")
    expected = stats.ttest_ind(list(A.values()), list(other.values()), equal_var=False)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-9)


def test_decided_is_five_percent() -> None:
    found = difference({0: 1.0, 1: 0.3, 2: 0.9, 3: 0.2}, dict.fromkeys(range(4), 0.0))
    assert 0.05 < found.p < 0.07
    assert not found.decided


NO_TEST = {
    "one run each": ({0: 1.0}, {0: 2.0}, -1.0),
    "one against many": ({0: 1.0}, {0: 2.0, 1: 4.0}, -2.0),
    "the same values": ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, 0.0),
    "the same difference": ({0: 0.3, 1: 0.5}, {0: 0.1, 1: 0.3}, 0.2),
    "no spread, other seeds": ({0: 1.0, 1: 1.0}, {2: 2.0, 3: 2.0}, -1.0),
    "no run": ({}, {0: 2.0}, math.nan),
    "infinite": ({0: -math.inf, 1: 1.0}, {0: 2.0, 1: 3.0}, -math.inf),
}


@pytest.mark.parametrize(("one", "other", "value"), NO_TEST.values(), ids=NO_TEST)
def test_without_a_test_nothing_is_decided(one, other, value) -> None:
    found = difference(one, other)
    assert found.value == pytest.approx(value, nan_ok=True)
    assert math.isnan(found.p)
    assert (found.test, found.decided) == ("", False)


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
