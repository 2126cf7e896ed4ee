"""Means over seeds, and Pearson's correlation with its interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.05


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
