"""Goodness of fit of counts to exact probabilities."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping


def excess(outcomes: Iterable[Hashable], probability: Mapping[Hashable, float]) -> float:
    """(chi-square - k) / sqrt(2 k), k degrees of freedom: near 0 +- 1 where the outcomes follow `probability`.

    Raises AssertionError for an outcome of probability 0.
    """
    counts: dict[Hashable, int] = {}
    for outcome in outcomes:
        counts[outcome] = counts.get(outcome, 0) + 1
    assert counts.keys() <= probability.keys(), "an outcome that cannot be"
    assert math.isclose(sum(probability.values()), 1.0)
    total = sum(counts.values())
    chi2 = sum((counts.get(outcome, 0) - total * p) ** 2 / (total * p) for outcome, p in probability.items())
    freedom = len(probability) - 1
    return (chi2 - freedom) / math.sqrt(2 * freedom)
