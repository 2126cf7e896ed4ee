"""The cells of an artefact: every combination of axis values that is run, and the lines added to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product

from fsbench.errors import UsageError
from fsbench.papers.artefact import Artefact, Extra, Scale, Values


@dataclass(frozen=True)
class Cell:
    """One combination.

    Args:
        values: by axis, as rows of the table show it.
        run: by axis, what is run; differs from `values` in an extra's label.
        extra: the line of ours that it belongs to.
    """

    values: Mapping[str, str]
    run: Mapping[str, str]
    extra: Extra | None = None

    @property
    def overrides(self) -> Values:
        own = () if self.extra is None else self.extra.overrides
        return (*(f"{axis}={value}" for axis, value in self.run.items()), *own)

    def has(self, wanted: Mapping[str, str]) -> bool:
        """Tell whether it has these values, as shown or as run."""
        return all(value in (self.values.get(axis), self.run.get(axis)) for axis, value in wanted.items())


def axis_values(artefact: Artefact, scale: Scale, chosen: Mapping[str, Values]) -> dict[str, Values]:
    """The values of each axis: those chosen, else the scale's, else the published ones.

    A number that is written in another way is the published one (`0.20` is `0.2`).
    """
    if unknown := scale.axes.keys() - artefact.axes.keys():
        raise ValueError(f"{artefact.name}: a scale has values of {', '.join(sorted(unknown))}, which is no axis")
    found: dict[str, Values] = {}
    for axis, published in artefact.axes.items():
        values = chosen.get(axis) or scale.axes.get(axis) or published
        found[axis] = tuple(next((known for known in published if _same(known, value)), value) for value in values)
    return found


def cells(artefact: Artefact, scale: Scale, chosen: Mapping[str, Values] = {}) -> list[Cell]:
    """The cells in the order of the axes; lines of ours behind the cells that they are beside.

    Where the values of an extra's axis are chosen, the extra is among them only if its label is.

    Raises:
        UsageError: the paper has none of the combinations that were chosen.
    """
    axes = axis_values(artefact, scale, chosen)
    # A label of an extra is run with the values that it is beside.
    run_with = {
        axis: dict.fromkeys(
            meant
            for value in values
            for meant in [e.where.get(axis, value) for e in artefact.extras if (e.axis, e.label) == (axis, value)]
            or [value]
        )
        for axis, values in axes.items()
    }
    found: list[Cell] = []
    for combination in product(*run_with.values()):
        values = dict(zip(axes, combination, strict=True))
        if any(one.items() <= values.items() for one in artefact.without):
            continue
        if all(values[axis] in axes[axis] for axis in axes):
            found.append(Cell(values, values))
        # By label: of two with one label the later one counts.
        added = {
            extra.label: Cell({**values, extra.axis: extra.label}, values, extra)
            for extra in artefact.extras
            if extra.where.items() <= values.items() and (extra.axis not in chosen or extra.label in axes[extra.axis])
        }
        found += added.values()
    if not found:
        shown = " ".join(f"{axis}={','.join(values)}" for axis, values in chosen.items() if axis in axes)
        raise UsageError("", "", f"{artefact.name} has no cell with {shown}")
    return found


def _same(a: str, b: str) -> bool:
    try:
        return float(a) == float(b)
    except ValueError:
        return a == b
