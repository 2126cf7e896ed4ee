"""Rank correlations against scipy and against the definition, pair by pair; the coverage of their intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fsbench.report.correlation import figure_of, rank_correlation


def table(seeds: int = 3, noise: float = 1.0, seed: int = 0) -> pd.DataFrame:
    """Runs of two hyperparameters: y grows with both, x with a and against b."""
    random = np.random.default_rng(seed)
    rows = [
        {"a": f"{a}", "b": f"{b}", "x": a - b / 2 + noise * random.normal(), "y": a + b + noise * random.normal()}
        for a in range(3)
        for b in range(2)
        for _ in range(seeds)
    ]
    return pd.DataFrame(rows)


def found(frame: pd.DataFrame, axes=("a", "b"), **more):
    return rank_correlation(frame["x"], frame["y"], frame[list(axes)], **more)


def by_hand(frame: pd.DataFrame, axis: str, other: str) -> float:
    """psi of one axis, as it is defined."""
    means = []
    for _, part in frame.groupby(other):
        pairs = [(u, v) for u, v in itertools.combinations(part.to_dict("records"), 2) if u[axis] != v[axis]]
        means.append(np.mean([np.sign(u["x"] - v["x"]) * np.sign(u["y"] - v["y"]) for u, v in pairs]))
    return float(np.mean(means))


def test_overall_is_kendalls_tau_and_granulated_its_definition() -> None:
    frame = table().drop(index=[4])  # combinations of different size
    one = found(frame)
    assert one.n == 17
    assert one.overall.value == pytest.approx(stats.kendalltau(frame["x"], frame["y"]).statistic)
    assert one.by_axis["a"].value == pytest.approx(by_hand(frame, "a", "b"))
    assert one.by_axis["b"].value == pytest.approx(by_hand(frame, "b", "a"))
    assert one.granulated.value == pytest.approx((by_hand(frame, "a", "b") + by_hand(frame, "b", "a")) / 2)


def test_one_run_a_combination_is_the_paper_and_has_no_interval() -> None:
    frame = table(seeds=1, noise=0.0)
    one = found(frame)
    assert (one.by_axis["a"].value, one.by_axis["b"].value, one.granulated.value) == (1.0, -1.0, 0.0)
    assert math.isnan(one.overall.low)
    assert math.isnan(one.granulated.high)


def test_pairs_that_tie_count_for_neither() -> None:
    frame = pd.DataFrame({"a": ["1", "2", "3"], "x": [1.0, 1.0, 2.0], "y": [1.0, 2.0, 3.0]})
    assert found(frame, axes=["a"]).granulated.value == pytest.approx(2 / 3)


@pytest.mark.parametrize("missing", [None, math.nan, -math.inf])
def test_runs_that_lack_a_number_are_left_out(missing: float | None) -> None:
    frame = table()
    more = pd.concat([frame, pd.DataFrame([{"a": "9", "b": "9", "x": missing, "y": 1.0}])], ignore_index=True)
    assert found(more) == found(frame)


def test_runs_that_differ_in_nothing_have_the_overall_tau_alone() -> None:
    one = found(table(), axes=[])
    assert -1 <= one.overall.low <= one.overall.value <= one.overall.high <= 1
    assert (one.by_axis, math.isnan(one.granulated.value)) == ({}, True)


def test_no_runs() -> None:
    one = found(table().iloc[:0])
    assert (one.n, math.isnan(one.overall.value), one.by_axis) == (0, True, {})


def test_intervals_cover_what_endless_seeds_would_say() -> None:
    truth = found(table(seeds=200, seed=1), draws=0)
    tables = [found(table(seeds=5, seed=100 + i), draws=300) for i in range(200)]
    for name in ("overall", "granulated"):
        true, ours = getattr(truth, name).value, [getattr(one, name) for one in tables]
        assert 0.9 <= np.mean([one.low <= true <= one.high for one in ours]) <= 0.98


def test_the_figure_has_each_value_and_interval() -> None:
    one = found(table())
    axes = figure_of({"hessian_trace": one}, "generalization_gap").axes[0]
    drawn = [line.get_xdata() for line in axes.lines[:4]]
    assert [list(np.atleast_1d(x)) for x in drawn] == [
        [one.overall.low, one.overall.high],
        [one.overall.value],
        [one.granulated.low, one.granulated.high],
        [one.granulated.value],
    ]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["hessian trace"]
