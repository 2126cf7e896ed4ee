"""A value that is chosen by the accuracy on training images set aside, from one run for each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from fsbench.papers.artefact import Artefact, Choice, Scale, Values
from fsbench.reproduce.cells import Cell
from fsbench.reproduce.compositions import Compositions
from fsbench.reproduce.planned_run import PlannedRun, planned_run

_LOST = ("failed", "diverged")


@dataclass(frozen=True)
class Candidates:
    """The runs that decide a cell's value.

    Args:
        runs: the candidate values, as the command line has them, and the run of each.
    """

    choice: Choice
    held_out: int
    cell: Cell
    runs: tuple[tuple[str, PlannedRun], ...]

    @cached_property
    def value(self) -> str | None:
        """The one of the highest accuracy, the first of several; None until every run has ended.

        A run that failed or diverged is no candidate, unless none is left.
        """
        ended = {value: run.directory.status for value, run in self.runs if run.directory.path.is_dir()}
        if not all(ended.get(value) in ("done", *_LOST) for value, _ in self.runs):
            return None
        found = {
            value: run.directory.read_results()["validation_accuracy"]
            for value, run in self.runs
            if run.directory.finished
        }
        return max(found, key=found.__getitem__) if found else None


def candidates(
    artefact: Artefact, scale: Scale, cell: Cell, line: Sequence[str], asked: Values, compositions: Compositions
) -> Candidates | None:
    """The candidate runs of a cell; None where nothing is chosen for it, or the command line has the value.

    Args:
        line: the cell's own, to its end.
        asked: what the command line of `fsbench reproduce` sets in every cell.
    """
    choice = artefact.choice
    if choice is None or not cell.has(dict(choice.where)) or any(word.startswith(f"{choice.key}=") for word in asked):
        return None
    held_out = scale.held_out or choice.held_out
    runs = tuple(
        (
            value,
            planned_run(cell, 0, [*line, f"dataset.validation={held_out}", f"{choice.key}={value}"], compositions),
        )
        for value in scale.candidates or choice.values
    )
    return Candidates(choice, held_out, cell, runs)


def choice_cuts(found: Sequence[Candidates]) -> list[str]:
    """What was chosen, from what, by what; and how that differs from the paper's way."""
    said = []
    for choice in dict.fromkeys(one.choice for one in found):
        ours = [one for one in found if one.choice == choice]
        values = [value for value, _ in ours[0].runs]
        fewer = "" if tuple(values) == choice.values else f" instead of {', '.join(choice.values)}"
        held_out = ours[0].held_out
        aside = "" if held_out == choice.held_out else f" instead of {choice.held_out:,}"
        chosen = "; ".join(f"{_named(one)} {one.value or 'not yet'}" for one in ours)
        said.append(
            f"{choice.key} chosen from {', '.join(values)}{fewer} by the accuracy on {held_out:,}{aside} training "
            f"images set aside, one run each: {chosen}."
        )
    return said


def _named(one: Candidates) -> str:
    """What tells cells apart for which something is chosen."""
    return " ".join(value for axis, value in one.cell.run.items() if axis not in dict(one.choice.where))
