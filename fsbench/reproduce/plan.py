"""The runs of an artefact at a scale: what `fsbench train` would be told, and where each of them lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fsbench import __version__
from fsbench.config.compose import Composer, Job, quoted
from fsbench.config.load import override_value
from fsbench.config.primary import SHARPNESS
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError
from fsbench.measuring.measures import Measure, chosen_measures
from fsbench.measuring.record import Entry, answers, kept_in
from fsbench.papers.artefact import Artefact, Computed, Scale, Values
from fsbench.reproduce.cells import Candidates, Cell, PlannedRun, cells
from fsbench.reproduce.cuts import choice_cuts, run_cuts, scope_cuts, settings_cuts
from fsbench.reproduce.request import Request
from fsbench.runs.identity import flatten
from fsbench.runs.records import read_measures
from fsbench.training.outcome import directory_of


@dataclass(frozen=True)
class Plan:
    """All runs of an artefact at a scale.

    Args:
        choosing: the runs that decide on values of the others.
        sharpness: what is measured of every run; None: nothing.
        cuts: what differs from the artefact as published, a sentence each.
    """

    artefact: Artefact
    scale: str
    runs: tuple[PlannedRun, ...]
    choosing: tuple[Candidates, ...]
    sharpness: Job[SharpnessConfig] | None
    cuts: tuple[str, ...]

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

    def measured(self, run: PlannedRun) -> list[tuple[Measure, dict[str, Entry] | None]]:
        """What the run's record holds of each measure, by column; None where it was not measured as asked.

        Raises:
            Unreadable: the record can't be read.
        """
        if self.sharpness is None:
            return []
        kept = kept_in(read_measures(run.directory.sharpness))
        config = self.sharpness.config
        return [(one, answers(one, config, kept, __version__)) for one in chosen_measures(config.measures)]


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
    config, choice = request.config, artefact.choice
    scale = scale_of(artefact, config.scale)
    experiment = f"experiment={artefact.experiment}"
    stood_for = _stood_for(artefact, request)
    chosen = {key: values for key, values in request.chosen.items() if key in artefact.axes}
    if stood_for:
        chosen["dataset"] = (stood_for,)
    asked = _asked(artefact, request)
    # What a folder of images would not compose without.
    folder = [word for word in asked if word.startswith(("dataset.root=", "dataset.label="))]
    given = tuple(word for word in asked if choice and word.startswith(f"{choice.key}="))
    validation = [word.partition("=")[2] for word in asked if word.startswith("dataset.validation=")]
    seeds = range(config.seeds or scale.seeds or artefact.seeds)
    data_dir, progress = f"data_dir={quoted(config.data_dir)}", f"progress={str(config.progress).lower()}"
    places = (f"runs_dir={quoted(config.runs_dir)}", data_dir, f"trainer.device={config.device}", f"trainer.{progress}")

    def line_of(cell: Cell) -> tuple[list[str], Values]:
        """The command line of a cell, and which words of it hold for every cell that has their keys."""
        line = [experiment, *cell.overrides, *places]
        if stood_for:
            ours = Cell(cell.values, {**cell.run, "dataset": request.chosen["dataset"][0]}, cell.extra)
            theirs = composer.job([experiment, *cell.overrides])
            line = [experiment, *ours.overrides, *places]
            line += _tuned(theirs, composer.job([*line, *asked]))
        own = _of_cell(line, asked, composer)
        also = (word for where, words in scale.also if cell.has(where) for word in words)
        return [*line, *scale.overrides, *also, *own], own

    def planned(cell: Cell, seed: int, line: Sequence[str], waits: str | None = None) -> PlannedRun:
        job = composer.job([*line, f"seed={seed}"])
        return PlannedRun(cell, seed, job, directory_of(job), waits)

    runs: list[PlannedRun] = []
    choosing: list[Candidates] = []
    published: list[Values] = []
    for cell in cells(artefact, scale, chosen):
        line, own = line_of(cell)
        settled, waits = tuple(word for word in own if word in given), None
        if choice is not None and cell.has(dict(choice.where)) and not given:
            told = int(validation[-1]) if validation and validation[-1].isdigit() else None
            held_out = scale.held_out or choice.held_out if told is None else told
            aside = [*line, f"dataset.validation={held_out}"]
            values = scale.candidates or choice.values
            candidates = tuple((value, planned(cell, 0, [*aside, f"{choice.key}={value}"])) for value in values)
            choosing.append(Candidates(choice, held_out, cell, candidates))
            waits = choosing[-1].waits
            settled = () if waits else (f"{choice.key}={choosing[-1].value}",)
            line += settled
        needed = folder if cell.run.get("dataset") == "folder" else ()
        published.append((experiment, *cell.overrides, *needed, *settled))
        runs += [planned(cell, seed, line, waits) for seed in seeds]
    for word in asked:
        if not any(word in run.job.overrides for run in runs):
            # No method here has the key: composing says so.
            composer.job([*line, word])
    sharpness = theirs = None
    if artefact.measures:
        line = ["run=planned", f"measures=[{','.join(artefact.measures)}]", *artefact.measure]
        theirs = composer.job(line, primary=SHARPNESS)
        line += [*scale.measure, f"device={config.device}", data_dir, progress, *request.sharpness]
        sharpness = composer.job(line, primary=SHARPNESS)
        sharpness = sharpness if config.measure else None
    first = runs[:: len(seeds)]
    cuts = (
        *scope_cuts(artefact, first, len(seeds)),
        *run_cuts(artefact, first, [composer.job(line) for line in published]),
        *(f"{word}, given; the paper chooses it on images set aside." for word in given),
        *choice_cuts(choosing),
        *settings_cuts(theirs, sharpness),
    )
    return Plan(artefact, config.scale, tuple(runs), tuple(choosing), sharpness, cuts)


def runs_by_directory(plans: Sequence[Plan]) -> dict[Path, list[tuple[Plan, PlannedRun]]]:
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


def _asked(artefact: Artefact, request: Request) -> Values:
    """The words of the command line that hold for every cell of this artefact."""
    words = []
    for key, values in request.chosen.items():
        if key in artefact.axes:
            continue
        if len(values) > 1:
            axes = ", ".join(artefact.axes) or "none"
            problem = f"{artefact.name} takes one value of it; its axes, which take several: {axes}"
            raise UsageError(key, ",".join(values), problem)
        words.append(f"{key}={values[0]}")
    return tuple(words)


def _of_cell(line: Sequence[str], asked: Values, composer: Composer) -> Values:
    """Of what is asked for all cells, what this one has: SGD has no rho."""
    others = [word for word in asked if not word.startswith("optimizer.")]
    if len(others) == len(asked):
        return asked
    options = {f"optimizer.{key}" for key in composer.job([*line, *others]).config.optimizer.model_dump()}
    return tuple(word for word in asked if word in others or word.partition("=")[0] in options)


def _stood_for(artefact: Artefact, request: Request) -> str | None:
    """The published data set whose place the one on the command line takes, if it takes one's."""
    meant = request.config.stands_for
    if meant is None:
        return None
    given = request.chosen.get("dataset", ())
    if len(given) != 1:
        raise UsageError("stands_for", meant, "goes with one data set: dataset=NAME")
    if "dataset" not in artefact.axes:
        return None
    if meant not in artefact.axes["dataset"]:
        allowed = ", ".join(artefact.axes["dataset"])
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


def _text(value: object) -> str:
    """A value as an override has it."""
    return f"[{','.join(map(_text, value))}]" if isinstance(value, list) else override_value(value)
