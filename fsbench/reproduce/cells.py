"""The cells of an artefact, their runs, and the runs that decide on a value of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from fsbench.config.compose import Job
from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError
from fsbench.papers.artefact import Artefact, Choice, Extra, Scale, Values
from fsbench.report.text import same_value
from fsbench.runs.directory import RunDirectory
from fsbench.runs.read import Unreadable


@dataclass(frozen=True)
class Cell:
    """A combination of axis values that is run.

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


@dataclass(frozen=True)
class PlannedRun:
    """A cell and a seed.

    Args:
        waits: why it can't be run yet, where a value is still to be chosen; the configuration then has the default.
    """

    cell: Cell
    seed: int
    job: Job[TrainConfig]
    directory: RunDirectory
    waits: str | None = None

    @property
    def finished(self) -> bool:
        return self.waits is None and self.directory.finished

    @property
    def diverged(self) -> bool:
        return self.directory.diverged


@dataclass(frozen=True)
class Candidates:
    """The runs that decide a cell's value: the one of the highest accuracy on training images set aside.

    Args:
        runs: the candidate values, as the command line has them, and the run of each.
    """

    choice: Choice
    held_out: int
    cell: Cell
    runs: tuple[tuple[str, PlannedRun], ...]

    @cached_property
    def accuracies(self) -> dict[str, float | None]:
        """Of the runs that have ended, by value; None: it diverged, which is an answer too."""
        found: dict[str, float | None] = {}
        for value, run in self.runs:
            if run.finished:
                with suppress(Unreadable):
                    found[value] = run.directory.read_results().get("validation_accuracy")
            elif run.diverged:
                found[value] = None
        return found

    @cached_property
    def value(self) -> str | None:
        """The one of the highest accuracy, the first of several; None until every run has ended, or if none is left."""
        known = {value: found for value, found in self.accuracies.items() if found is not None}
        return max(known, key=known.__getitem__) if known and len(self.accuracies) == len(self.runs) else None

    @property
    def waits(self) -> str | None:
        """Why there is no value."""
        if self.value is not None:
            return None
        for value, run in self.runs:
            if run.finished and value not in self.accuracies:
                return f"unreadable: {run.directory.summary}; delete it to train this run again"
        if len(self.accuracies) == len(self.runs):
            return f"every candidate of {self.choice.key} diverged: {', '.join(self.accuracies)}"
        return f"{self.choice.key} is not chosen yet"

    def __str__(self) -> str:
        """The cell, what was chosen for it, and the accuracies."""
        cell = " ".join(value for axis, value in self.cell.run.items() if axis not in dict(self.choice.where))
        ended = ", ".join(
            f"{value}: {'diverged' if found is None else f'{100 * found:.2f} %'}"
            for value, found in self.accuracies.items()
        )
        return f"{cell} {self.value or 'not yet'}" + (f" ({ended})" if ended else "")


def cells(artefact: Artefact, scale: Scale, chosen: Mapping[str, Values] = {}) -> list[Cell]:
    """The cells in the order of the axes; lines of ours behind the cells that they are beside.

    The values of an axis are those chosen, else the scale's, else the published ones; a number that is written in
    another way is the published one (`0.20` is `0.2`). Where the values of an extra's axis are chosen, the extra is
    among them only if its label is.

    Raises:
        UsageError: the paper has none of the combinations that were chosen.
    """
    if unknown := scale.axes.keys() - artefact.axes.keys():
        raise ValueError(f"{artefact.name}: a scale has values of {', '.join(sorted(unknown))}, which is no axis")
    axes = {
        axis: [
            next((known for known in published if same_value(known, value)), value)
            for value in chosen.get(axis) or scale.axes.get(axis) or published
        ]
        for axis, published in artefact.axes.items()
    }
    # A label of an extra is run with the values that it is beside.
    run_with: dict[str, dict[str, None]] = {axis: {} for axis in axes}
    for axis, wanted in axes.items():
        for value in wanted:
            extras = [extra for extra in artefact.extras if (extra.axis, extra.label) == (axis, value)]
            run_with[axis] |= dict.fromkeys([extra.where.get(axis, value) for extra in extras] or [value])
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
        asked = " ".join(f"{axis}={','.join(wanted)}" for axis, wanted in chosen.items() if axis in axes)
        raise UsageError("", "", f"{artefact.name} has no cell with {asked}")
    return found
