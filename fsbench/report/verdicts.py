"""Verdicts on differences over seeds: better, worse, equivalent or undecided, and what so many seeds could not see."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from fsbench.report.statistics import LEVEL, mean_std

POWER = 0.8

# Seeds beyond this are not counted: nobody runs them.
_MANY = 10_000

# {delta} is what counts as equivalent, with its unit.
HOW_TO_READ = (
    "A difference is the mean over seeds of one method less the other, with the same seeds (one seed is one "
    "initialisation and one order of the data), and its 95 % interval is that of Student's t over these differences. "
    "P(A > B) is the share of seeds on which the first is larger, ties counted half. p is of the paired t-test, "
    "two-sided, after Holm over all comparisons of the table; the intervals are not corrected, so that one may leave "
    "out 0 and decide nothing. Detectable is the smallest difference that so many seeds show with 80 % power at the "
    "level 0.05 divided by the number of comparisons. A method is better or worse if p <= 0.05; equivalent if two "
    "one-sided tests (TOST), after Holm too, reject a difference of {delta} either way; else undecided, with the "
    "number of seeds that would show a difference of {delta} with 80 % power, given the spread seen."
)


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same seeds, one less the other; NaN where the seeds are too few or have no spread.

    Args:
        n: seeds that both have.
        difference: of the means; low, high: its 95 % interval.
        superiority: share of the seeds on which the one is larger, ties counted half.
        p, tost: of the paired t-test, two-sided, and of the two one-sided tests against delta.
        std: sample standard deviation of the differences.
        detectable: the smallest difference that n seeds show with 80 % power.
        verdict: in words.
    """

    n: int
    difference: float
    low: float = math.nan
    high: float = math.nan
    superiority: float = math.nan
    p: float = math.nan
    tost: float = math.nan
    std: float = math.nan
    detectable: float = math.nan
    verdict: str = ""


def paired(one: Mapping[int, float], other: Mapping[int, float], delta: float = math.nan) -> Comparison:
    """`one` less `other` over the seeds that both have; its p-values are not corrected, and it has no verdict yet.

    Args:
        one, other: value by seed.
        delta: half-width of what counts as equivalent, in the unit of the values; NaN: nothing does.
    """
    from scipy import stats

    seeds = sorted(one.keys() & other.keys())
    differences = [one[seed] - other[seed] for seed in seeds]
    n, (mean, std) = len(seeds), mean_std(differences)
    if n < 2 or not math.isfinite(std):
        return Comparison(n, mean)
    superiority = sum((d > 0) + (d == 0) / 2 for d in differences) / n
    # What is equal but for rounding has no spread, and no test: t would be infinite.
    if std <= 1e-12 * max(map(abs, differences)):
        return Comparison(n, mean, superiority=superiority)
    tested = stats.ttest_1samp(differences, 0.0)
    low, high = tested.confidence_interval(1 - LEVEL)
    tost = math.nan
    if not math.isnan(delta):
        above = stats.ttest_1samp(differences, -delta, alternative="greater").pvalue
        below = stats.ttest_1samp(differences, delta, alternative="less").pvalue
        tost = float(max(above, below))
    return Comparison(n, mean, float(low), float(high), superiority, float(tested.pvalue), tost, std)


def of_published(one: tuple[float, float], other: tuple[float, float], n: int) -> float:
    """p of Welch's test of two published means and standard deviations, each of n runs; NaN where one is lacking."""
    from scipy import stats

    numbers = (*one, *other)
    if n < 2 or not all(map(math.isfinite, numbers)) or not one[1] + other[1]:
        return math.nan
    return float(stats.ttest_ind_from_stats(*one, n, *other, n, equal_var=False).pvalue)


def judged(comparisons: Sequence[Comparison], delta: float, *, higher_is_better: bool) -> list[Comparison]:
    """The comparisons of one table with p-values after Holm (1979), what they could detect, and their verdicts."""
    level = LEVEL / max(1, len(comparisons))
    ps, tosts = (holm([getattr(one, key) for one in comparisons]) for key in ("p", "tost"))
    found = []
    for one, p, tost in zip(comparisons, ps, tosts, strict=True):
        corrected = replace(one, p=p, tost=tost, detectable=one.std * detectable_effect(one.n, level))
        found.append(replace(corrected, verdict=_verdict(corrected, delta, level, higher_is_better)))
    return found


@lru_cache
def detectable_effect(n: int, level: float = LEVEL) -> float:
    """The mean difference, in standard deviations of the differences, that n seeds show with 80 % power.

    Two-sided paired t-test: d such that P(T > t_{1 - level/2, n - 1}) = 0.8 for noncentral T with n - 1 degrees of
    freedom and noncentrality d sqrt(n); the other tail is neglected. NaN for fewer than two seeds.
    """
    if n < 2:
        return math.nan
    from scipy import special, stats

    return float(special.nctdtrinc(n - 1, 1 - POWER, stats.t.isf(level / 2, n - 1))) / math.sqrt(n)


def seeds_needed(effect: float, level: float = LEVEL) -> int | None:
    """The seeds that show a mean difference of `effect` standard deviations with 80 % power; None: over 10,000."""
    low, high = 2, _MANY
    if detectable_effect(high, level) > effect:
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if detectable_effect(middle, level) <= effect else (middle + 1, high)
    return low


def _verdict(one: Comparison, delta: float, level: float, higher_is_better: bool) -> str:
    if not one.n:
        return "no runs"
    if one.p <= LEVEL:
        word = "better" if (one.difference > 0) == higher_is_better else "worse"
        return f"{word}, by less than delta" if one.tost <= LEVEL else word
    if one.tost <= LEVEL:
        return "equivalent"
    if math.isnan(one.p):
        if one.n > 1 and one.difference == 0:
            return "equal on every seed"
        if not math.isfinite(one.difference):
            return "undecided: a value is not finite"
        return "undecided: one seed" if one.n == 1 else "undecided: no spread over seeds"
    if math.isnan(delta):
        return "undecided"
    needed = seeds_needed(delta / one.std, level)
    if needed is None:
        return f"undecided: needs more than {_MANY:,} seeds"
    return f"undecided: needs {needed} seeds" if needed > one.n else "undecided"


def holm(ps: Sequence[float]) -> list[float]:
    """p-values after Holm's correction (1979): max over j <= i of (m - j + 1) p_(j), 1 at most.

    A comparison without a test (NaN) keeps none, and counts as one of the m.
    """
    corrected, largest = list(ps), 0.0
    tested = sorted((p, i) for i, p in enumerate(ps) if not math.isnan(p))
    for rank, (p, i) in enumerate(tested):
        largest = max(largest, min(1.0, (len(ps) - rank) * p))
        corrected[i] = largest
    return corrected
