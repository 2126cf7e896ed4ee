"""The paper's numbers of an artefact, found by the values of a cell's axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from fsbench.papers.artefact import Artefact
from fsbench.papers.published import read
from fsbench.report.axes import matches


@dataclass(frozen=True)
class Number:
    """One published number, in the unit of a share (not percent) where it is one.

    Args:
        value: the result that it is of.
        where: axis values of its cell; an axis that the paper does not name matches every value.
    """

    value: str
    where: Mapping[str, str]
    mean: float
    std: float | None


@dataclass(frozen=True)
class PublishedTable:
    """All of an artefact's published numbers."""

    numbers: tuple[Number, ...] = field(default=())

    def __bool__(self) -> bool:
        return bool(self.numbers)

    def find(self, value: str, where: Mapping[str, str]) -> Number | None:
        """The number for a result in the cell with these axis values, if the paper has it.

        A number that names more axes than another is meant more closely, and goes before it.
        """
        found = [one for one in self.numbers if one.value == value and matches(one.where, where)]
        return max(found, key=lambda one: len(one.where), default=None)


def published_table(artefact: Artefact, first: str) -> PublishedTable:
    """Read the artefact's published numbers.

    Args:
        first: the result that is meant where a `Published` names none.
    """
    return PublishedTable(tuple(_numbers(artefact, first)))


def _numbers(artefact: Artefact, first: str) -> Iterator[Number]:
    for published in artefact.published:
        for row in read(published):
            std = row["std"]
            yield Number(
                value=published.value or first,
                where={axis: str(row[axis]) for axis in published.columns},
                mean=float(row["mean"]) / published.factor,
                std=None if std is None else float(std) / published.factor,
            )
