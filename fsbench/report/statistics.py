"""Tests of differences over seeds, and Pearson's correlation with its interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LEVEL = 0.05


@dataclass(frozen=True)
class Difference:
    """A difference of two means and its two-sided test.

    Args:
        value: mean of the one less mean of the other; NaN where one has no run.
        p: NaN where no test is possible.
        n: number of runs of each (the pairs of a paired test), as it is written.
        test: `paired t-test`, `Welch's t-test`, or empty.
    """

    value: float
    p: float
    n: str
    test: str

    @property
    def decided(self) -> bool:
        return self.p <= LEVEL


NO_DIFFERENCE = Difference(math.nan, math.nan, "", "")


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation with its 95 % interval (Fisher's z); NaN where there are too few points."""

    r: float
    low: float
    high: float
    n: int


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation (n - 1), the same in whatever order the values are.

    The mean of infinities is an infinity, or NaN where both signs meet; there is no deviation then, nor of one value.
    """
    n = len(values)
    if not n or not all(map(math.isfinite, values)):
        return (sum(values) if n else math.nan), math.nan
    mean = math.fsum(values) / n
    # hypot: no square leaves the floats.
    return mean, math.hypot(*(value - mean for value in values)) / math.sqrt(n - 1) if n > 1 else math.nan


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Difference of two means over seeds, `one` less `other`.

    Where both have the same seeds the test is paired, as a seed is an initialisation and an order of the data;
    else it is Welch's. Without any spread there is no test: t would be infinite.

    Args:
        one, other: value by seed.
    """
    from scipy import stats

    a, b = ([values[seed] for seed in sorted(values)] for values in (one, other))
    paired = bool(one) and set(one) == set(other)
    n = str(len(a)) if paired else f"{len(a)}, {len(b)}"
    (mean_a, std_a), (mean_b, std_b) = mean_std(a), mean_std(b)
    none = Difference(mean_a - mean_b, math.nan, n, "")
    if min(len(a), len(b)) < 2 or not all(map(math.isfinite, [*a, *b])):
        return none
    # What is equal but for rounding has no spread either.
    if paired:
        pairs = [x - y for x, y in zip(a, b, strict=True)]
        if mean_std(pairs)[1] <= 1e-12 * max(map(abs, pairs)):
            return none
        return Difference(none.value, float(stats.ttest_rel(a, b).pvalue), n, "paired t-test")
    if math.hypot(std_a / len(a) ** 0.5, std_b / len(b) ** 0.5) <= 1e-12 * max(abs(mean_a), abs(mean_b)):
        return none
    welch = stats.ttest_ind_from_stats(mean_a, std_a, len(a), mean_b, std_b, len(b), equal_var=False)
    return Difference(none.value, float(welch.pvalue), n, "Welch's t-test")


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's correlation over the points where both are finite.

    The interval is tanh(artanh r ± 1.96 / √(n - 3)) (Fisher 1921), which takes the points as independent draws.
    """
    import numpy as np
    from scipy import stats

    points = np.array([x, y], dtype=float)
    a, b = points[:, np.isfinite(points).all(axis=0)]
    n = len(a)
    if n < 3 or a.min() == a.max() or b.min() == b.max():
        return Correlation(math.nan, math.nan, math.nan, n)
    found = stats.pearsonr(a, b)
    low, high = found.confidence_interval(0.95) if n > 3 else (math.nan, math.nan)
    return Correlation(float(found.statistic), float(low), float(high), n)
