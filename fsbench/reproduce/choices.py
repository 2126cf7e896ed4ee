"""A value that is chosen by the accuracy on training images set aside, from one run for each candidate."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property

from fsbench.config.compose import Composer
from fsbench.papers.artefact import Artefact, Choice, Scale, Values
from fsbench.reproduce.cells import Cell
from fsbench.reproduce.planned_run import PlannedRun, planned_run
from fsbench.runs.read import Unreadable

_HELD_OUT = "dataset.validation"


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
    def accuracies(self) -> dict[str, float | None]:
        """Of the runs that have ended, by value; None: it diverged, which is an answer too."""
        found: dict[str, float | None] = {}
        for value, run in self.runs:
            if run.finished:
                with suppress(Unreadable):
                    found[value] = run.directory.read_results().get("validation_accuracy")
            elif diverged(run):
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


def diverged(run: PlannedRun) -> bool:
    return run.directory.path.is_dir() and run.directory.status == "diverged"


def candidates(
    artefact: Artefact, scale: Scale, cell: Cell, line: Sequence[str], asked: Values, composer: Composer
) -> Candidates | None:
    """The candidate runs of a cell; None where nothing is chosen for it, or the command line has the value.

    Args:
        line: the cell's own, to its end.
        asked: what the command line of `fsbench reproduce` sets in every cell.
    """
    choice = artefact.choice
    if choice is None or not cell.has(dict(choice.where)) or any(word.startswith(f"{choice.key}=") for word in asked):
        return None
    asked_for = [word.partition("=")[2] for word in asked if word.startswith(f"{_HELD_OUT}=")]
    held_out = int(asked_for[-1]) if asked_for and asked_for[-1].isdigit() else scale.held_out or choice.held_out
    runs = tuple(
        (
            value,
            planned_run(cell, 0, [*line, f"{_HELD_OUT}={held_out}", f"{choice.key}={value}"], composer),
        )
        for value in scale.candidates or choice.values
    )
    return Candidates(choice, held_out, cell, runs)


def choice_cuts(artefact: Artefact, found: Sequence[Candidates], asked: Values) -> list[str]:
    """What was chosen, from what, by what; and how that differs from the paper's way."""
    choice = artefact.choice
    if choice is None:
        return []
    said = [
        f"{word}, given; the paper chooses it on images set aside."
        for word in asked
        if word.startswith(f"{choice.key}=")
    ]
    if not found:
        return said
    values = [value for value, _ in found[0].runs]
    fewer = "" if tuple(values) == choice.values else f" instead of {', '.join(choice.values)}"
    held_out = found[0].held_out
    aside = "" if held_out == choice.held_out else f" instead of {choice.held_out:,}"
    chosen = "; ".join(f"{_named(one)} {one.value or 'not yet'}{_accuracies(one)}" for one in found)
    return [
        *said,
        f"{choice.key} chosen from {', '.join(values)}{fewer} by the accuracy on {held_out:,}{aside} other training "
        f"images, one run each: {chosen}; the paper does not print what it chose.",
    ]


def _accuracies(one: Candidates) -> str:
    shown = [
        f"{value}: {'diverged' if found is None else f'{100 * found:.2f} %'}" for value, found in one.accuracies.items()
    ]
    return f" ({', '.join(shown)})" if shown else ""


def _named(one: Candidates) -> str:
    """What tells cells apart for which something is chosen."""
    return " ".join(value for axis, value in one.cell.run.items() if axis not in dict(one.choice.where))
