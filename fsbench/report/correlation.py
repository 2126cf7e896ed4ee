"""Does a measure go with generalization? Kendall's tau over runs, and within one hyperparameter at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from fsbench.report.style import LineStyle, figure, legend_above, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWS = 2000

HOW_TO_READ = (
    "Kendall's tau is the mean over pairs of runs of +1 where both columns order the pair alike and -1 where they do "
    "not. By a hyperparameter, it is taken over pairs that differ in that one and in no other, within each "
    "combination of the others, and averaged over these; granulated is the mean over hyperparameters (Jiang et al. "
    "2020). The 95 % interval is that of a bootstrap that draws the seeds of each combination anew: what other seeds "
    "would have said of the same hyperparameters."
)


@dataclass(frozen=True)
class Tau:
    """A rank correlation with its 95 % interval; NaN where no pair of runs says anything, or no seeds can vary."""

    value: float
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class RankCorrelation:
    """The rank correlation of two columns.

    Args:
        n: runs that have both.
        overall: over all pairs of runs.
        by_axis: over pairs that differ in this axis alone.
        granulated: the mean of these.
    """

    n: int
    overall: Tau
    by_axis: Mapping[str, Tau]
    granulated: Tau


def rank_correlation(x: pd.Series, y: pd.Series, axes: pd.DataFrame, draws: int = _DRAWS) -> RankCorrelation:
    """Kendall's tau of two columns, overall and granulated.

        tau   = mean over pairs (u, v) of sign(x_u - x_v) sign(y_u - y_v)
        psi_i = mean over combinations of the other axes of the mean over their pairs that differ in axis i
        Psi   = mean over i of psi_i

    Source: Jiang et al. 2020, "Fantastic generalization measures and where to find them", section 2.2.1. There a
    combination is one run. Here it has seeds, and pairs that differ in nothing else count in tau alone. The interval
    holds the middle 95 % of a bootstrap within combinations that draws one run less than there are, which makes its
    variance the unbiased one (Rao & Wu 1988); it varies nothing in a combination of a single run.

    Args:
        x, y: a number for each run; runs in which one is missing or infinite are left out.
        axes: a column for each hyperparameter.
    """
    known = (np.isfinite(x.astype(float)) & np.isfinite(y.astype(float))).to_numpy()
    axes, one, other = axes[known].reset_index(drop=True), x[known].to_numpy(float), y[known].to_numpy(float)
    agree = np.sign(np.subtract.outer(one, one)) * np.sign(np.subtract.outer(other, other))
    # The runs as they are, then each draw: how often each run is in it.
    counts = np.vstack([np.ones(len(axes)), _drawn(_combinations(axes), len(axes), draws)])
    overall = _mean_over_pairs(agree, 1 - np.eye(len(axes)), counts)
    by_axis = {}
    for axis in axes:
        codes = pd.factorize(axes[axis])[0]
        differ = np.not_equal.outer(codes, codes).astype(float)
        parts = [np.ix_(part, part) for part in _combinations(axes.drop(columns=axis))]
        means = [_mean_over_pairs(agree[i], differ[i], counts[:, i[1][0]]) for i in parts if differ[i].any()]
        if means:
            by_axis[axis] = np.mean(means, axis=0)
    granulated = np.mean(list(by_axis.values()), axis=0) if by_axis else np.full(1, math.nan)
    taus = {axis: _tau(values) for axis, values in by_axis.items()}
    return RankCorrelation(len(axes), _tau(overall), taus, _tau(granulated))


def figure_of(found: Mapping[str, RankCorrelation], target: str) -> Figure:
    """A line for each column, the overall tau and the granulated one with their intervals."""
    with style():
        from matplotlib.lines import Line2D

        drawn = figure(1.5 * 3.3, 0.6 + 0.3 * len(found))
        axes = drawn.add_subplot()
        handles = []
        looks = {"overall": LineStyle("#000000", "o", "-"), "granulated": LineStyle("#D55E00", "s", "-")}
        for shift, (name, look) in zip((-0.13, 0.13), looks.items(), strict=True):
            for place, one in enumerate(found.values()):
                tau: Tau = getattr(one, name)
                axes.plot([tau.low, tau.high], [place + shift] * 2, color=look.colour)
                axes.plot(tau.value, place + shift, **look.points())
            handles.append(Line2D([], [], **look.points(), label=name))
        axes.axvline(0, color="0.6", linewidth=0.6)
        axes.set_yticks(range(len(found)), [name.replace("_", " ") for name in found])
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.set_xlim(-1.05, 1.05)
        axes.set_xticks([-1, -0.5, 0, 0.5, 1])
        axes.set_xlabel(f"Kendall's tau with the {target.replace('_', ' ')}")
        legend_above(drawn, handles)
    return drawn


def _combinations(axes: pd.DataFrame) -> list[np.ndarray]:
    """The runs of each combination of values, as positions."""
    if not len(axes.columns):
        return [np.arange(len(axes))]
    return list(axes.groupby(list(axes), sort=False).indices.values())


def _drawn(combinations: Sequence[np.ndarray], n: int, draws: int) -> np.ndarray:
    """How often each of n runs is drawn, (draws, n); no line where every combination has a single run."""
    if all(len(part) == 1 for part in combinations):
        return np.empty((0, n))
    random, counts = np.random.default_rng(0), np.ones((draws, n))
    for part in combinations:
        if (size := len(part)) > 1:
            counts[:, part] = random.multinomial(size - 1, np.full(size, 1 / size), size=draws)
    return counts


def _mean_over_pairs(values: np.ndarray, pairs: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Mean of values (n, n) over the pairs (n, n, zero or one), for each line of counts of the n runs; NaN for none."""
    total, number = (((counts @ matrix) * counts).sum(axis=1) for matrix in (values * pairs, pairs))
    return np.divide(total, number, out=np.full(len(counts), math.nan), where=number > 0)


def _tau(values: np.ndarray) -> Tau:
    """Of the value and what each draw has."""
    value, drawn = values[0], values[1:]
    return Tau(float(value), *map(float, np.nanpercentile(drawn, [2.5, 97.5]))) if len(drawn) else Tau(float(value))
