"""Runs put together to cells: one combination of axis values, its value by seed, and the published number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import pandas as pd

from fsbench.report.confidence import std
from fsbench.report.numbers import unit_scale
from fsbench.report.published_table import PublishedTable


@dataclass(frozen=True)
class Cell:
    """A result in one cell, in the unit of its label.

    Args:
        where: axis values.
        value: name of the result.
        label: what it is called, with its unit.
        by_seed: of the runs that have it.
        planned: how many runs there should be.
        published: the paper's mean, if there is one; NaN else.
        published_std: the paper's standard deviation, if there is one; NaN else.
    """

    where: Mapping[str, str]
    value: str
    label: str
    by_seed: Mapping[int, float]
    planned: int
    published: float
    published_std: float

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @cached_property
    def mean(self) -> float:
        values = list(self.by_seed.values())
        if not all(map(math.isfinite, values)):
            return sum(values)  # an infinity, as ln det of a singular matrix is; NaN where both signs meet
        return math.fsum(values) / len(values) if values else math.nan

    @cached_property
    def std(self) -> float:
        return std(list(self.by_seed.values()))

    @property
    def difference(self) -> float:
        """Measured less published."""
        return self.mean - self.published


def collect(
    frame: pd.DataFrame, axes: Sequence[str], results: Iterable[tuple[str, str]], published: PublishedTable
) -> list[Cell]:
    """A cell for each result and each combination of axis values that was planned, in the order of the frame."""
    cells = []
    for value, label in results:
        scale = unit_scale(label)
        column = numbers_of(frame, value)
        groups: dict[tuple[str, ...], list[int]] = {}
        for position, key in enumerate(zip(*(frame[axis].astype(str) for axis in axes), strict=True)):
            groups.setdefault(key, []).append(position)
        for key, positions in groups.items():
            where = dict(zip(axes, key, strict=True))
            paper = published.find(value, where)
            seeds = {int(frame["seed"].iloc[i]): scale * column[i] for i in positions if not math.isnan(column[i])}
            cells.append(
                Cell(
                    where=where,
                    value=value,
                    label=label,
                    by_seed=dict(sorted(seeds.items())),
                    planned=len(positions),
                    published=math.nan if paper is None else scale * paper.mean,
                    published_std=math.nan if paper is None or paper.std is None else scale * paper.std,
                )
            )
    return cells


def numbers_of(frame: pd.DataFrame, value: str) -> list[float]:
    """A result of each run; NaN where it has none, or no run has."""
    if value not in frame:
        return [math.nan] * len(frame)
    return [float(x) for x in pd.to_numeric(frame[value])]


def find(cells: Iterable[Cell], value: str, where: Mapping[str, str]) -> Cell | None:
    """The cell of a result with all these axis values, if it was planned."""
    for cell in cells:
        if cell.value == value and all(cell.where.get(axis) == name for axis, name in where.items()):
            return cell
    return None
