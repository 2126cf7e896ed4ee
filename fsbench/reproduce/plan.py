"""The runs of an artefact at a scale: what `fsbench train` would be told, and where each of them lies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fsbench.config.compose import Composer, Job, quoted
from fsbench.config.load import shown
from fsbench.config.primary import SHARPNESS
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError
from fsbench.papers.artefact import Artefact, Choice, Computed, Scale, Values
from fsbench.reproduce.cells import Cell, axis_values, cells
from fsbench.reproduce.cuts import Compared, run_cuts, scope_cuts, settings_cuts
from fsbench.reproduce.request import Request
from fsbench.runs.directory import RunDirectory
from fsbench.runs.identity import flatten
from fsbench.runs.read import Unreadable

_DATASET, _METHOD, _HELD_OUT = "dataset", "optimizer", "dataset.validation"


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
        return self.directory.path.is_dir() and self.directory.status == "diverged"


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
        shown = [
            f"{value}: {'diverged' if found is None else f'{100 * found:.2f} %'}"
            for value, found in self.accuracies.items()
        ]
        return f"{cell} {self.value or 'not yet'}" + (f" ({', '.join(shown)})" if shown else "")


@dataclass(frozen=True)
class Plan:
    """All runs of an artefact at a scale.

    Args:
        choosing: the runs that decide on values of the others.
        sharpness: what is measured of every run; None: nothing.
        compare: what differs from the artefact as published, a sentence each.
    """

    artefact: Artefact
    scale: str
    runs: tuple[PlannedRun, ...]
    choosing: tuple[Candidates, ...]
    sharpness: Job[SharpnessConfig] | None
    compare: Callable[[], tuple[str, ...]]

    @cached_property
    def cuts(self) -> tuple[str, ...]:
        """The differences from the artefact as published, a sentence each."""
        return self.compare()

    @property
    def waits(self) -> bool:
        """True while a value is not chosen yet."""
        return any(run.waits for run in self.runs)

    @property
    def deciding(self) -> tuple[PlannedRun, ...]:
        """The runs that decide on values of the others."""
        return tuple(run for one in self.choosing for _, run in one.runs)

    def measuring(self, run: PlannedRun) -> Job[SharpnessConfig] | None:
        """`fsbench sharpness` of one run."""
        if self.sharpness is None:
            return None
        config = self.sharpness.config.model_copy(update={"run": str(run.directory.path)})
        return Job(config, self.sharpness.choices, self.sharpness.overrides)


def scale_of(artefact: Artefact | Computed, name: str) -> Scale:
    """The scale as declared; `paper` need not be. Raises UsageError where there is none."""
    declared = artefact.scales if isinstance(artefact, Artefact) else artefact.options
    if name not in declared and (name != "paper" or isinstance(artefact, Computed)):
        raise UsageError("scale", name, f"{artefact.name} has none; its scales: {', '.join(declared)}")
    return artefact.scales.get(name, Scale()) if isinstance(artefact, Artefact) else Scale()


def make_plan(artefact: Artefact, request: Request, composer: Composer) -> Plan:
    """Compose and check every run of an artefact.

    Raises:
        UsageError: what was asked for does not go with the artefact, or does not compose.
    """
    config = request.config
    scale = scale_of(artefact, config.scale)
    copied = _copied(artefact, request)
    chosen = {key: values for key, values in request.chosen.items() if key in artefact.axes}
    if copied:
        chosen[_DATASET] = (copied,)
    asked = _asked(artefact, request)
    given = tuple(word for word in asked if artefact.choice and word.startswith(f"{artefact.choice.key}="))
    seeds = range(config.seeds or scale.seeds or artefact.seeds)
    progress = str(config.progress).lower()
    runs_dir, data_dir = f"runs_dir={quoted(config.runs_dir)}", f"data_dir={quoted(config.data_dir)}"
    places = (runs_dir, data_dir, f"trainer.device={config.device}", f"trainer.progress={progress}")

    def planned(cell: Cell, seed: int, line: Sequence[str], waits: str | None = None) -> PlannedRun:
        job = composer.job([*line, f"seed={seed}"])
        return PlannedRun(cell, seed, job, RunDirectory.of(job.config.model_dump(mode="json"), job.choices), waits)

    runs: list[PlannedRun] = []
    choosing: list[Candidates] = []
    published: list[Values] = []
    for cell in cells(artefact, scale, chosen):
        as_published = (f"experiment={artefact.experiment}", *cell.overrides)
        line = [*as_published, *places]
        if copied:
            run = Cell(cell.values, {**cell.run, _DATASET: request.chosen[_DATASET][0]}, cell.extra)
            line = [as_published[0], *run.overrides, *places]
            line += _tuned(composer.job(as_published), composer.job([*line, *asked]))
        here = _of_cell(line, asked, composer)
        line += [*scale.overrides, *(word for where, words in scale.also if cell.has(where) for word in words), *here]
        settled, waits, choice = tuple(word for word in here if word in given), None, artefact.choice
        if choice is not None and cell.has(dict(choice.where)) and not given:
            told = [word.partition("=")[2] for word in asked if word.startswith(f"{_HELD_OUT}=")]
            held_out = int(told[-1]) if told and told[-1].isdigit() else scale.held_out or choice.held_out
            aside = [*line, f"{_HELD_OUT}={held_out}"]
            values = scale.candidates or choice.values
            candidates = tuple((value, planned(cell, 0, [*aside, f"{choice.key}={value}"])) for value in values)
            found = Candidates(choice, held_out, cell, candidates)
            choosing.append(found)
            waits = found.waits
            settled = () if waits else (f"{choice.key}={found.value}",)
            line += settled
        # What a folder of images would not compose without.
        folder = [word for word in asked if word.startswith(("dataset.root=", "dataset.label="))]
        published.append((*as_published, *(folder if cell.run.get(_DATASET) == "folder" else ()), *settled))
        runs += [planned(cell, seed, line, waits) for seed in seeds]
    for word in asked:
        if not any(word in run.job.overrides for run in runs):
            # No method here has the key: composing says so.
            composer.job([*line, word])
    sharpness, measured_as_published = _sharpness(artefact, scale, request, composer)

    def compare() -> tuple[str, ...]:
        compared = [
            Compared(run.cell, composer.job(line), run.job)
            for line, run in zip(published, runs[:: len(seeds)], strict=True)
        ]
        return (
            *scope_cuts(artefact, axis_values(artefact, scale, chosen), compared, len(seeds)),
            *run_cuts(artefact, compared),
            *(f"{word}, given; the paper chooses it on images set aside." for word in given),
            *_choice_cuts(choosing),
            *settings_cuts(measured_as_published, sharpness),
        )

    return Plan(artefact, config.scale, tuple(runs), tuple(choosing), sharpness, compare)


def distinct(plans: Sequence[Plan]) -> dict[Path, list[tuple[Plan, PlannedRun]]]:
    """The runs by directory: one that several artefacts have is there once."""
    found: dict[Path, list[tuple[Plan, PlannedRun]]] = {}
    for plan in plans:
        for run in plan.runs:
            if not run.waits:
                found.setdefault(run.directory.path, []).append((plan, run))
    return found


def deciding(plans: Sequence[Plan]) -> dict[Path, PlannedRun]:
    """The runs by directory that decide on values of others."""
    return {run.directory.path: run for plan in plans for run in plan.deciding}


def _choice_cuts(found: Sequence[Candidates]) -> Iterator[str]:
    """Say which values were chosen, from which, by which images, and where that differs from the paper's way."""
    for one in found[:1]:
        choice, values = one.choice, tuple(value for value, _ in one.runs)
        fewer = "" if values == choice.values else f" instead of {', '.join(choice.values)}"
        aside = "" if one.held_out == choice.held_out else f" instead of {choice.held_out:,}"
        yield (
            f"{choice.key} chosen from {', '.join(values)}{fewer} by the accuracy on {one.held_out:,}{aside} other "
            f"training images, one run each: {'; '.join(map(str, found))}; the paper does not print what it chose."
        )


def _asked(artefact: Artefact, request: Request) -> Values:
    """The words of the command line that hold for every cell of this artefact."""
    words = []
    for key, values in request.chosen.items():
        if key in artefact.axes:
            continue
        if len(values) > 1:
            shown = ", ".join(artefact.axes) or "none"
            problem = f"{artefact.name} takes one value of it; its axes, which take several: {shown}"
            raise UsageError(key, ",".join(values), problem)
        words.append(f"{key}={values[0]}")
    return tuple(words)


def _of_cell(line: Sequence[str], asked: Values, composer: Composer) -> Values:
    """Of what is asked for all cells, what this one has: SGD has no rho."""
    others = [word for word in asked if not word.startswith(f"{_METHOD}.")]
    if len(others) == len(asked):
        return asked
    options = {f"{_METHOD}.{key}" for key in composer.job([*line, *others]).config.optimizer.model_dump()}
    return tuple(word for word in asked if word in others or word.partition("=")[0] in options)


def _copied(artefact: Artefact, request: Request) -> str | None:
    """The value of the artefact's data set axis that the data set given stands for, if it stands for one."""
    meant = request.config.stands_for
    if meant is None:
        return None
    given = request.chosen.get(_DATASET, ())
    if len(given) != 1:
        raise UsageError("stands_for", meant, "goes with one data set: dataset=NAME")
    if _DATASET not in artefact.axes:
        return None
    if meant not in artefact.axes[_DATASET]:
        allowed = ", ".join(artefact.axes[_DATASET])
        raise UsageError("stands_for", meant, f"{artefact.name} has no such data set; it has {allowed}")
    return meant


def _tuned(theirs: Job[TrainConfig], ours: Job[TrainConfig]) -> list[str]:
    """The settings of recipes for the data set that ours stands for, which ours does not have."""
    a, b = (flatten(job.config.model_dump(mode="json")) for job in (theirs, ours))
    groups = ("optimizer", "base", "schedule", "trainer", "augment", "loss")
    incidental = ("trainer.device", "trainer.progress")
    return [
        f"{key}={_text(value)}"
        for key, value in a.items()
        if key.partition(".")[0] in groups and key not in incidental and key in b and b[key] != value
    ]


def _sharpness(
    artefact: Artefact, scale: Scale, request: Request, composer: Composer
) -> tuple[Job[SharpnessConfig] | None, Job[SharpnessConfig] | None]:
    """The measuring, and the measuring as published."""
    if not artefact.measures:
        return None, None
    config = request.config
    base = ["run=planned", f"measures=[{','.join(artefact.measures)}]"]
    places = [
        f"device={config.device}", f"data_dir={quoted(config.data_dir)}",
        f"progress={str(config.progress).lower()}",
    ]  # fmt: skip
    published = [*base, *artefact.measure]
    ours = composer.job([*published, *scale.measure, *places, *request.sharpness], primary=SHARPNESS)
    return ours if config.measure else None, composer.job(published, primary=SHARPNESS)


def _text(value: object) -> str:
    """A value as an override has it."""
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else shown(value)
