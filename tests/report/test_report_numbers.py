from __future__ import annotations

import math

import pytest

from fsbench.report.numbers import block_decimals, difference_text, mean_text, p_text, significant

MEANS = {
    "percent": (97.217, 0.131, 2, "97.22 ± 0.13"),
    "one run": (97.217, math.nan, 2, "97.22"),
    "no run": (math.nan, math.nan, 2, "-"),
    "two digits of the deviation": (-979.31, 2.234, None, "-979.3 ± 2.2"),
    "small deviation": (0.27601, 0.00012, None, "0.27601 ± 0.00012"),
    "large": (12345.6, 78.9, None, "12346 ± 79"),
    "power of ten": (1.2341e-7, 1.2e-8, None, "1.234e-07 ± 1.2e-08"),
    "singular": (-math.inf, math.nan, None, "-inf"),
    "zero": (0.0, 0.0, None, "0 ± 0"),
}


@pytest.mark.parametrize(("mean", "std", "decimals", "text"), MEANS.values(), ids=MEANS)
def test_mean_and_deviation(mean, std, decimals, text) -> None:
    assert mean_text(mean, std, decimals) == text


BLOCKS = {
    "percent": ("test accuracy (%)", [97.2, 0.1], 2),
    "alike": ("ln det", [-979.3, -1138.1], 1),
    "far apart": ("trace", [0.1, 500.0], None),
    "gaps": ("trace", [math.nan, 4.5], 3),
    "nothing": ("trace", [math.nan], None),
}


@pytest.mark.parametrize(("label", "means", "decimals"), BLOCKS.values(), ids=BLOCKS)
def test_a_table_has_one_count_of_decimals(label, means, decimals) -> None:
    assert block_decimals(label, means) == decimals


DIFFERENCES = {
    "more": (0.314, 2, "+0.31"),
    "less": (-0.314, 2, "-0.31"),
    "no sign that the digits don't show": (-0.004, 2, "0.00"),
    "none": (math.nan, 2, "-"),
    "free": (158.83, None, "+159"),
    "infinite": (-math.inf, 2, "-inf"),
}


@pytest.mark.parametrize(("value", "decimals", "text"), DIFFERENCES.values(), ids=DIFFERENCES)
def test_difference(value, decimals, text) -> None:
    assert difference_text(value, decimals) == text


@pytest.mark.parametrize(("p", "text"), [(0.0321, "0.032"), (0.00099, "< 0.001"), (math.nan, "-"), (1.0, "1.000")])
def test_p(p, text) -> None:
    assert p_text(p) == text


@pytest.mark.parametrize(("value", "text"), [(0.0, "0"), (11.114, "11.11"), (123456.0, "123456"), (1e-5, "1.000e-05")])
def test_significant(value, text) -> None:
    assert significant(value) == text
