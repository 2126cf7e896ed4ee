"""Verdicts on simulated runs of known difference, and against scipy and hand-written corrections."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import fsbench.papers
from fsbench.report.verdicts import detectable_effect, holm, judged, of_published, paired, seeds_needed

NUMBERS = Path(fsbench.papers.__file__).parent / "numbers"

TABLES, SEEDS, METHODS, STD = 500, 6, 4, 0.3


def _table(generator: np.random.Generator, means: list[float], delta: float) -> list:
    """Each method against the first; runs of one seed have something in common."""
    common = generator.normal(0, 1, SEEDS)
    values = [mean + common + generator.normal(0, STD, SEEDS) for mean in means]
    runs = [dict(enumerate(one.tolist())) for one in values]
    return judged([paired(one, runs[0], delta) for one in runs[1:]], delta, higher_is_better=True)


def test_intervals_cover_and_null_tables_are_rarely_called_better_or_worse() -> None:
    generator = np.random.default_rng(0)
    tables = [_table(generator, [0.0] * METHODS, delta=0.1) for _ in range(TABLES)]
    covered = np.mean([one.low <= 0 <= one.high for table in tables for one in table])
    assert 0.93 <= covered <= 0.97
    wrong = [any(one.verdict.startswith(("better", "worse")) for one in table) for table in tables]
    assert np.mean(wrong) <= 0.05


def test_a_known_difference_is_covered_and_found_as_often_as_its_power_says() -> None:
    generator = np.random.default_rng(1)
    # Standard deviation of a paired difference, and the difference that is found in 80 of 100 without correction.
    difference = detectable_effect(SEEDS) * STD * math.sqrt(2)
    tables = [_table(generator, [0.0, difference], delta=0.01) for _ in range(TABLES)]
    assert 0.93 <= np.mean([one.low <= difference <= one.high for (one,) in tables]) <= 0.97
    assert 0.74 <= np.mean([one.verdict == "better" for (one,) in tables]) <= 0.86  # three standard errors


def test_differences_as_large_as_delta_are_rarely_called_equivalent() -> None:
    generator = np.random.default_rng(2)
    tables = [_table(generator, [0.0, *[0.8] * (METHODS - 1)], delta=0.8) for _ in range(TABLES)]
    assert np.mean([any("equivalent" in one.verdict or "delta" in one.verdict for one in t) for t in tables]) <= 0.05


def test_what_is_within_delta_is_equivalent() -> None:
    generator = np.random.default_rng(3)
    tables = [_table(generator, [0.0, 0.0], delta=2.0) for _ in range(50)]
    assert np.mean([one.verdict == "equivalent" for (one,) in tables]) >= 0.9


def test_numbers_are_those_of_scipy_and_of_holm() -> None:
    generator = np.random.default_rng(4)
    runs = [dict(enumerate(generator.normal(mean, 1, 7).tolist())) for mean in (0, 0.3, 1.5, 0.1)]
    plain = [paired(one, runs[0], 0.5) for one in runs[1:]]
    for one, run in zip(plain, runs[1:], strict=True):
        a, b = list(run.values()), list(runs[0].values())
        tested = stats.ttest_rel(a, b)
        interval = tested.confidence_interval(0.95)
        assert (one.p, one.low, one.high) == pytest.approx((tested.pvalue, interval.low, interval.high), rel=1e-12)
        # TOST: the 90 % interval lies within delta exactly where its p is 0.05 or less.
        inner = tested.confidence_interval(0.9)
        assert (one.tost <= 0.05) == (inner.low > -0.5 and inner.high < 0.5)
        d = np.subtract(a, b)
        assert one.superiority == pytest.approx(np.mean(d > 0))
    order = np.argsort([one.p for one in plain])
    corrected = np.maximum.accumulate([min(1, (3 - rank) * plain[i].p) for rank, i in enumerate(order)])
    found = judged(plain, 0.5, higher_is_better=True)
    assert [found[i].p for i in order] == pytest.approx(list(corrected))


def test_fewer_seeds_than_needed_show_less_than_delta() -> None:
    for effect in (0.3, 1.0, 2.5):
        needed = seeds_needed(effect)
        assert needed is not None
        assert detectable_effect(needed) <= effect < detectable_effect(needed - 1)
    assert seeds_needed(1e-6) is None


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, "equal on every seed"),
        ({0: 1.0, 1: 2.0}, {0: 0.5, 1: 1.5}, "undecided: no spread over seeds"),
        ({0: 1.0}, {0: 2.0}, "undecided: one seed"),
        ({0: 1.0}, {1: 2.0}, "no runs"),
        ({0: math.inf, 1: 1.0, 2: 1.0}, {0: 2.0, 1: 1.0, 2: 1.5}, "undecided: a value is not finite"),
    ],
)
def test_where_no_test_is_possible(one, other, verdict) -> None:
    (found,) = judged([paired(one, other, 0.1)], 0.1, higher_is_better=True)
    assert found.verdict == verdict
    assert math.isnan(found.p)


def test_lower_is_better_for_losses() -> None:
    one, other = {s: 1.0 + 0.01 * s for s in range(6)}, {s: 2.0 + 0.011 * s for s in range(6)}
    (found,) = judged([paired(one, other, 0.1)], 0.1, higher_is_better=False)
    assert (found.verdict, found.difference < 0) == ("better", True)


def test_a_difference_that_is_significant_and_small_says_so() -> None:
    one, other = {s: 1.0 + 0.001 * (s % 2) for s in range(8)}, dict.fromkeys(range(8), 0.99)
    (found,) = judged([paired(one, other, 0.1)], 0.1, higher_is_better=True)
    assert found.verdict == "better, by less than delta"


def test_the_order_of_a_published_table_may_be_undecided_by_its_own_numbers() -> None:
    # Kim et al. 2022, table 1, if its means are of three runs: Welch's test by hand from means and deviations.
    numbers = pd.read_csv(NUMBERS / "kim2022_table1.csv").set_index(["dataset", "model", "optimizer"])
    cells = sorted({key[:2] for key in numbers.index})
    ps = [
        of_published(*((numbers.loc[(*cell, name), "mean"], numbers.loc[(*cell, name), "std"]) for name in pair), n=3)
        for cell in cells
        for pair in [("fsam", "sam")]
    ]
    assert len(ps) == 16
    assert (sum(p <= 0.05 for p in ps), sum(p <= 0.05 for p in holm(ps))) == (3, 1)
