"""The runs of an artefact at a scale: what `fsbench train` would be told, and where each of them lies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from fsbench.config.compose import Composer, Job
from fsbench.config.primary import SHARPNESS
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError
from fsbench.papers.artefact import Artefact, Computed, Scale, Values
from fsbench.reproduce.cells import Cell, axis_values, cells
from fsbench.reproduce.choices import Candidates, candidates, choice_cuts
from fsbench.reproduce.cuts import Compared, run_cuts, scope_cuts, settings_cuts
from fsbench.reproduce.planned_run import PlannedRun, planned_run
from fsbench.reproduce.request import Request
from fsbench.runs.identity import flatten

_DATASET = "dataset"
_METHOD = "optimizer"


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
        """What differs from the artefact as published, a sentence each."""
        return self.compare()

    @property
    def waits(self) -> bool:
        """Whether a value is not chosen yet."""
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
    seeds = range(config.seeds or scale.seeds or artefact.seeds)
    places = (
        f"runs_dir={_quoted(config.runs_dir)}", f"data_dir={_quoted(config.data_dir)}",
        f"trainer.device={config.device}", f"trainer.progress={str(config.progress).lower()}",
    )  # fmt: skip
    asked = _asked(artefact, request)
    planned = cells(artefact, scale, chosen)
    runs: list[PlannedRun] = []
    choosing: list[Candidates] = []
    values: list[Values] = []
    for cell in planned:
        run = {**cell.run, _DATASET: request.chosen[_DATASET][0]} if copied else cell.run
        also = [word for where, words in scale.also if cell.has(where) for word in words]
        line = [f"experiment={artefact.experiment}", *Cell(cell.values, run, cell.extra).overrides, *places]
        if copied:
            line += _tuned(composer.job(_published(artefact, cell)), composer.job([*line, *asked]))
        here = _of_cell(line, asked, composer)
        line += [*scale.overrides, *also, *here]
        given = tuple(word for word in here if artefact.choice and word.startswith(f"{artefact.choice.key}="))
        waits, value = None, ()
        if (found := candidates(artefact, scale, cell, line, asked, composer)) is not None:
            choosing.append(found)
            waits = found.waits
            value = (f"{found.choice.key}={found.value}",) if found.value else ()
        values.append(value or given)
        runs += [planned_run(cell, seed, [*line, *value], composer, waits) for seed in seeds]
    for word in asked:
        if not any(word in run.job.overrides for run in runs):
            # No method here has the key: composing says so.
            composer.job([*line, word])
    sharpness, as_published = _sharpness(artefact, scale, request, composer)

    def compare() -> tuple[str, ...]:
        compared = [
            Compared(cell, composer.job([*_published(artefact, cell), *_needed(cell, asked), *value]), run.job)
            for cell, value, run in zip(planned, values, runs[:: len(seeds)], strict=True)
        ]
        return (
            *scope_cuts(artefact, axis_values(artefact, scale, chosen), compared, len(seeds)),
            *run_cuts(artefact, compared),
            *choice_cuts(artefact, choosing, asked),
            *settings_cuts(as_published, sharpness),
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


def _asked(artefact: Artefact, request: Request) -> Values:
    """What the command line sets in every cell of this artefact."""
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


def _published(artefact: Artefact, cell: Cell) -> Values:
    """The command line of a cell, nothing cut."""
    return (f"experiment={artefact.experiment}", *cell.overrides)


def _tuned(theirs: Job[TrainConfig], ours: Job[TrainConfig]) -> list[str]:
    """What recipes set for the data set that ours stands for, and would not for ours."""
    a, b = (flatten(job.config.model_dump(mode="json")) for job in (theirs, ours))
    groups = ("optimizer", "base", "schedule", "trainer", "augment", "loss")
    incidental = ("trainer.device", "trainer.progress")
    return [
        f"{key}={_text(value)}"
        for key, value in a.items()
        if key.partition(".")[0] in groups and key not in incidental and key in b and b[key] != value
    ]


def _needed(cell: Cell, asked: Sequence[str]) -> list[str]:
    """What the command line adds to a data set that is an axis's value, without which that would not compose."""
    if cell.run.get(_DATASET) != "folder":
        return []
    return [word for word in asked if word.startswith(("dataset.root=", "dataset.label="))]


def _sharpness(
    artefact: Artefact, scale: Scale, request: Request, composer: Composer
) -> tuple[Job[SharpnessConfig] | None, Job[SharpnessConfig] | None]:
    """What is measured, and what would be as published."""
    if not artefact.measures:
        return None, None
    config = request.config
    base = ["run=planned", f"measures=[{','.join(artefact.measures)}]"]
    places = [
        f"device={config.device}", f"data_dir={_quoted(config.data_dir)}",
        f"progress={str(config.progress).lower()}",
    ]  # fmt: skip
    published = [*base, *artefact.measure]
    ours = composer.job([*published, *scale.measure, *places, *request.sharpness], primary=SHARPNESS)
    return ours if config.measure else None, composer.job(published, primary=SHARPNESS)


def _text(value: object) -> str:
    """A value as an override has it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return str(value)


def _quoted(text: str) -> str:
    """Text as a quoted string of the override grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
