"""How sure a measured difference or correlation is: t-tests over seeds, the interval of Pearson's r."""

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
        n: how many runs of each (the pairs of a paired test), as it is written.
        test: `paired t-test`, `Welch's t-test`, or empty.
    """

    value: float
    p: float
    n: str
    test: str

    @property
    def decided(self) -> bool:
        return self.p <= LEVEL


@dataclass(frozen=True)
class Correlation:
    """Pearson's correlation with its 95 % interval (Fisher's z); NaN where there are too few points."""

    r: float
    low: float
    high: float
    n: int


def difference(one: Mapping[int, float], other: Mapping[int, float]) -> Difference:
    """Difference of two means over seeds, `one` less `other`.

    Where both have the same seeds the test is paired, as a seed is an initialisation and an order of the data;
    else it is Welch's. Without any spread there is no test: t would be infinite.

    Args:
        one, other: value by seed.
    """
    a, b = [one[seed] for seed in sorted(one)], [other[seed] for seed in sorted(other)]
    if not a or not b:
        return Difference(math.nan, math.nan, f"{len(a)}, {len(b)}", "")
    value = math.fsum(a) / len(a) - math.fsum(b) / len(b)
    finite = all(map(math.isfinite, [*a, *b]))
    if set(one) == set(other):
        test, n = "paired t-test", str(len(a))
        statistic = paired_t([x - y for x, y in zip(a, b, strict=True)]) if finite and len(a) > 1 else None
    else:
        test, n = "Welch's t-test", f"{len(a)}, {len(b)}"
        statistic = welch_t(a, b) if finite and min(len(a), len(b)) > 1 else None
    if statistic is None:
        return Difference(value, math.nan, n, "")
    from scipy.special import stdtr

    t, freedom = statistic
    return Difference(value, float(2 * stdtr(freedom, -abs(t))), n, test)


def paired_t(differences: Sequence[float]) -> tuple[float, float] | None:
    """Student's t and its degrees of freedom for a mean difference of zero; None without spread."""
    n = len(differences)
    mean, spread = math.fsum(differences) / n, std(differences)
    # Differences that are equal but for rounding have no spread either.
    if spread <= 1e-12 * max(abs(mean), max(map(abs, differences))):
        return None
    return mean / (spread / math.sqrt(n)), n - 1


def welch_t(a: Sequence[float], b: Sequence[float]) -> tuple[float, float] | None:
    """Welch's t and its degrees of freedom (Welch 1947); None without spread."""
    u, v = std(a) ** 2 / len(a), std(b) ** 2 / len(b)
    mean_a, mean_b = math.fsum(a) / len(a), math.fsum(b) / len(b)
    if math.sqrt(u + v) <= 1e-12 * max(abs(mean_a), abs(mean_b)):
        return None
    freedom = (u + v) ** 2 / (u**2 / (len(a) - 1) + v**2 / (len(b) - 1))
    return (mean_a - mean_b) / math.sqrt(u + v), freedom


def pearson(x: Sequence[float], y: Sequence[float]) -> Correlation:
    """Pearson's correlation over the points where both are finite.

    The interval is tanh(artanh r ± 1.96 / √(n - 3)) (Fisher 1921), which takes the points as independent draws.
    """
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a) and math.isfinite(b)]
    n = len(points)
    if n < 3 or not (spread_x := std([a for a, _ in points])) or not (spread_y := std([b for _, b in points])):
        return Correlation(math.nan, math.nan, math.nan, n)
    mean_x, mean_y = (math.fsum(point[i] for point in points) / n for i in (0, 1))
    # Each deviation over its spread first: a product of two small or large numbers could leave the floats.
    r = math.fsum((a - mean_x) / spread_x * ((b - mean_y) / spread_y) for a, b in points) / (n - 1)
    r = max(-1.0, min(1.0, r))
    if n < 4:
        return Correlation(r, math.nan, math.nan, n)
    if abs(r) == 1:
        return Correlation(r, r, r, n)
    half = 1.959963984540054 / math.sqrt(n - 3)
    return Correlation(r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half), n)


def std(values: Sequence[float]) -> float:
    """Sample standard deviation (n - 1); NaN for fewer than two values or where one is not finite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return math.nan
    mean = math.fsum(values) / len(values)
    # hypot: no square leaves the floats.
    return math.hypot(*(value - mean for value in values)) / math.sqrt(len(values) - 1)
