"""The runs of a comparison: methods in settings, the trials that choose hyperparameters, and the seeds."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from fsbench.compare.search import Ranges, points, ranges
from fsbench.config.compare import CompareConfig
from fsbench.config.compose import Composer, Job, quoted
from fsbench.config.primary import COMPARE
from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError, did_you_mean
from fsbench.measuring.cost import images_of_an_epoch, passes
from fsbench.runs.directory import RunDirectory
from fsbench.training.outcome import directory_of

KEYS = tuple(CompareConfig.model_fields)
_METHOD, _HELD_OUT, _EPOCHS, _SEARCH = "optimizer", "dataset.validation", "trainer.epochs", "search."
# What a comparison settles itself.
_SETTLED = {
    "seed": "seeds=N takes N of them",
    "run_name": "several runs would share it",
    "overwrite": "remove the runs",
    "trainer.device": "device= says it for all",
    "trainer.progress": "progress= says it for all",
}


@dataclass(frozen=True)
class Arm:
    """One of the methods compared.

    Args:
        words: overrides that make it.
    """

    name: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """One training of a comparison."""

    job: Job[TrainConfig]

    @cached_property
    def directory(self) -> RunDirectory:
        return directory_of(self.job)

    @property
    def state(self) -> str:
        """`done`, `diverged` or `missing`."""
        return "done" if self.directory.finished else "diverged" if self.directory.diverged else "missing"

    @property
    def ended(self) -> bool:
        """It is done, or diverged, which is an answer too."""
        return self.directory.finished or self.directory.diverged

    def results(self) -> dict[str, float]:
        """The results of its summary; empty where it diverged or is not done."""
        found = self.directory.read_results() if self.directory.finished else {}
        return {name: float(value) for name, value in found.items() if value is not None}


@dataclass(frozen=True)
class Cell:
    """A method in a setting.

    Args:
        setting: value by key, of the keys that have several.
        arm: the name of its method.
        method: the same in tables, where budget=both tells apart those of more epochs.
        line, job: the overrides of all its runs, and what they make with no more said.
        space: the ranges that are searched; none without trials.
        trials: the hyperparameters that are tried, and the run of each; none where nothing is searched.
    """

    setting: Mapping[str, str]
    arm: str
    method: str
    line: tuple[str, ...]
    job: Job[TrainConfig]
    space: Ranges
    trials: tuple[tuple[dict[str, str], Run], ...]

    @property
    def passes(self) -> float:
        """Forward-backward passes over the mini-batch that a step takes."""
        return passes(self.job.config.optimizer.model_dump(mode="json"))

    @property
    def searched(self) -> bool:
        return all(run.ended for _, run in self.trials)

    @property
    def chosen(self) -> dict[str, str] | None:
        """The hyperparameters of the highest accuracy on the images held out; None where every trial diverged."""
        if not self.trials:
            return {}
        scores = [(run.results().get("validation_accuracy"), values) for values, run in self.trials]
        known = [(score, values) for score, values in scores if score is not None]
        return max(known, key=lambda one: one[0])[1] if known else None

    def __str__(self) -> str:
        return " ".join([self.method, *(f"{key}={value}" for key, value in self.setting.items())])


@dataclass(frozen=True)
class Comparison:
    """All that is compared.

    Args:
        pairs: names of the two methods of each comparison, the one less the other.
    """

    config: CompareConfig
    cells: tuple[Cell, ...]
    pairs: tuple[tuple[str, str], ...]
    composer: Composer

    @property
    def trials(self) -> list[Run]:
        return [run for cell in self.cells for _, run in cell.trials]

    @property
    def searched(self) -> bool:
        """Every trial has ended; a diverged one is an answer too."""
        return all(cell.searched for cell in self.cells)

    @property
    def finals(self) -> list[Run]:
        """The runs that are compared, once all is chosen."""
        return [run for cell in self.cells for run in self.runs(cell).values()]

    @property
    def compared(self) -> list[tuple[tuple[str, ...], tuple[str, str]]]:
        """The pairs of each setting, by the values of its keys; budget=both may give settings different methods."""
        there = {(tuple(cell.setting.values()), cell.method) for cell in self.cells}
        settings = dict.fromkeys(tuple(cell.setting.values()) for cell in self.cells)
        return [(s, (a, b)) for s in settings for a, b in self.pairs if {(s, a), (s, b)} <= there]

    @property
    def notes(self) -> list[str]:
        """How hyperparameters were chosen, and which methods are in no comparison; a sentence each."""
        found: list[str] = []
        if self.config.trials:
            found.append(
                "Hyperparameters were chosen by the accuracy on held-out training images, from points of a Sobol "
                "sequence on a logarithmic scale, with seed 0; "
                f"the table is of seeds {self.seeds[0]} to {self.seeds[-1]}."
            )
        for cell in self.cells if self.config.trials else ():
            given = "; ".join(f"{key} {low:g} to {high:g}" for key, (low, high) in cell.space.items())
            found.append(f"{cell.method}: {len(cell.trials)} trials, {given or 'nothing is searched'}.")
            method = cell.job.config.optimizer
            if method.arguments() and not method.search:
                found.append(f"{cell.method} declares no ranges: its own options are not searched.")
        compared = {name for pair in self.pairs for name in pair}
        found += [f"{cell.method} is in no comparison." for cell in self.cells if cell.method not in compared]
        return list(dict.fromkeys(found))

    @property
    def seeds(self) -> range:
        """Fresh ones: the search has had seed 0."""
        first = int(self.config.trials > 0)
        return range(first, first + self.config.seeds)

    def runs(self, cell: Cell) -> dict[int, Run]:
        """The runs of a cell by seed, with what was chosen; none where every trial diverged."""
        if (chosen := cell.chosen) is None:
            return {}
        words = [*cell.line, *(f"{key}={value}" for key, value in chosen.items())]
        return {seed: Run(self.composer.job([*words, f"seed={seed}"])) for seed in self.seeds}


def make_comparison(words: Sequence[str], arms: Sequence[str], composer: Composer) -> Comparison:
    """Take a command line apart, compose and check all of its runs.

    Args:
        words: KEY=VALUE; a key with several values is a setting each, `optimizer` a method each.
        arms: further methods, `NAME: KEY=VALUE ...`.

    Raises:
        UsageError: what does not compose, or compares nothing.
    """
    own, searched, others = sorted_words(words)
    config: CompareConfig = composer.job(own, primary=COMPARE).config
    choices = {word.partition("=")[0]: composer.choices(word) for word in others}
    methods = _methods(choices.pop(_METHOD, []), arms)
    for word in (word for found in choices.values() for word in found if found.count(word) > 1):
        key, _, value = word.partition("=")
        raise UsageError(key, value, "is there twice")
    shared = tuple(found[0] for found in choices.values() if len(found) == 1)
    places = (
        f"runs_dir={quoted(config.runs_dir)}", f"data_dir={quoted(config.data_dir)}",
        f"trainer.device={config.device}", f"trainer.progress={str(config.progress).lower()}",
    )  # fmt: skip
    cells: list[Cell] = []
    for setting in product(*(found for found in choices.values() if len(found) > 1)):
        values = {key: value for key, _, value in (word.partition("=") for word in setting)}
        lines = {arm: (*shared, *setting, *places, *arm.words) for arm in methods}
        jobs = {arm: composer.job(line) for arm, line in lines.items()}
        for arm, factor in _budgeted(jobs, config):
            line, job = lines[arm], jobs[arm]
            if factor != 1:
                line = (*line, f"{_EPOCHS}={round(job.config.trainer.epochs * factor)}")
                job = composer.job(line)
            name = f"{arm.name}_{factor:g}x" if factor != 1 and config.budget == "both" else arm.name
            if any((cell.setting, cell.method) == (values, name) for cell in cells):
                raise UsageError("--arm", name, f"needs another name, which budget={config.budget} gives a method here")
            space = _space(line, job, searched) if config.trials else {}
            cells.append(Cell(values, arm.name, name, line, job, space, _trials(line, job, space, config, composer)))
    _refuse_unknown(searched, cells)
    return Comparison(config, tuple(cells), tuple(_pairs(config, cells, methods[0].name)), composer)


def _methods(named: Sequence[str], arms: Sequence[str]) -> list[Arm]:
    """The methods of `optimizer=a,b`, as the words of each, and of `--arm`."""
    methods = [Arm(word.partition("=")[2], (word,)) for word in named]
    for text in arms:
        arm = _arm(text)
        if not any(word.startswith(f"{_METHOD}=") for word in arm.words):
            if len(named) != 1:
                raise UsageError("--arm", text, f"must name its {_METHOD}=")
            arm = Arm(arm.name, (named[0], *arm.words))
        methods.append(arm)
    names = [arm.name for arm in methods]
    if len(names) < 2:
        raise UsageError(_METHOD, ",".join(names), "name two methods at least, such as optimizer=sgd,sam")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(_METHOD, twice[0], "is there twice; --arm can give the second another name")
    return methods


def sorted_words(words: Sequence[str]) -> tuple[list[str], Ranges, list[str]]:
    """The words that are keys of the comparison itself, the ranges that are searched, and the words for its runs."""
    own: list[str] = []
    searched: dict[str, tuple[float, float]] = {}
    others: list[str] = []
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise UsageError("", "", f"{word}: must read KEY=VALUE; see fsbench compare --help")
        _refuse_settled(word)
        if key in KEYS or key.startswith("executor."):
            own.append(word)
        elif key.startswith(_SEARCH):
            searched[key.removeprefix(_SEARCH)] = _ends(key, value)
        else:
            others.append(word)
    return own, searched, others


def _key(word: str) -> str:
    """The key of an override, which may stand after the + or ++ that Hydra takes."""
    return word.partition("=")[0].lstrip("+")


def _refuse_settled(word: str) -> None:
    if (key := _key(word)) in _SETTLED:
        raise UsageError(key, word.partition("=")[2], f"can't be given, {_SETTLED[key]}")


def _ends(key: str, text: str) -> tuple[float, float]:
    try:
        low, high = (float(end) for end in text.strip("[]").split(","))
    except ValueError:
        low = high = 0.0
    if not 0 < low < high < float("inf"):
        raise UsageError(key, text, "must be the ends of a range, such as [0.01,0.5], both > 0")
    return low, high


def _arm(text: str) -> Arm:
    name, colon, words = text.partition(":")
    if not colon or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.+-]*", name.strip()) or "=" not in words:
        allowed = "must read 'NAME: KEY=VALUE ...'; a name has letters, digits and _ . + - only"
        raise UsageError("--arm", text, allowed)
    try:
        arm = Arm(name.strip(), tuple(shlex.split(words)))
    except ValueError as failure:
        raise UsageError("--arm", text, f"can't be read: {failure}") from None
    for word in arm.words:
        _refuse_settled(word)
    return arm


def _budgeted(jobs: Mapping[Arm, Job[TrainConfig]], config: CompareConfig) -> Iterator[tuple[Arm, float]]:
    """The methods, and what their epochs are multiplied by."""
    costs = {arm: passes(job.config.optimizer.model_dump(mode="json")) for arm, job in jobs.items()}
    most = max(costs.values())
    for arm, cost in costs.items():
        trainer = jobs[arm].config.trainer
        if config.budget != "epochs" and cost < most and trainer.max_steps is not None:
            problem = f"not with budget={config.budget}, which counts epochs"
            raise UsageError("trainer.max_steps", trainer.max_steps, problem)
        if config.budget != "passes" or cost == most:
            yield arm, 1.0
        if config.budget != "epochs" and cost < most:
            yield arm, most / cost


def _space(line: Sequence[str], job: Job[TrainConfig], searched: Ranges) -> Ranges:
    """The ranges of a method, those that were given in the place of its own."""
    space = ranges(job.config, {_key(word) for word in line})
    return {key: searched.get(key, ends) for key, ends in space.items()}


def _trials(
    line: Sequence[str], job: Job[TrainConfig], space: Ranges, config: CompareConfig, composer: Composer
) -> tuple[tuple[dict[str, str], Run], ...]:
    """The trials of a cell. Raises UsageError where it is not known how many images can be held out."""
    if not space:
        return ()
    given = {_key(word) for word in line}
    words = [*line, "seed=0"]
    if _HELD_OUT in given:
        if config.held_out is not None:
            raise UsageError("held_out", config.held_out, f"not with {_HELD_OUT}, which is held out of all runs")
        if not job.config.dataset.validation:
            raise UsageError(_HELD_OUT, 0, "must be > 0, for images held out choose between trials")
    else:
        images = images_of_an_epoch(job.config.dataset)
        if config.held_out is None and images is None:
            raise UsageError("held_out", "null", "has to be given, for it is not known how many images there are")
        words.append(f"{_HELD_OUT}={config.held_out or max(1, (images or 0) // 10)}")
    return tuple(
        (values, Run(composer.job([*words, *(f"{key}={value}" for key, value in values.items())])))
        for values in points(space, config.trials)
    )


def _refuse_unknown(searched: Ranges, cells: Sequence[Cell]) -> None:
    """Raise UsageError where a range was given that no trial takes."""
    known = {key for cell in cells for values, _ in cell.trials for key in values}
    for key, (low, high) in searched.items():
        if key not in known:
            problem = f"is searched for no method here{did_you_mean(key, known)}; searched: {', '.join(sorted(known))}"
            raise UsageError(f"{_SEARCH}{key}", f"[{low:g},{high:g}]", problem if known else "needs trials=N")


def _pairs(config: CompareConfig, cells: Sequence[Cell], first: str) -> Iterator[tuple[str, str]]:
    """The names of the methods of each comparison."""
    names = list(dict.fromkeys(cell.method for cell in cells))
    baselines = list(dict.fromkeys(cell.method for cell in cells if cell.arm == first))
    if config.pairs is None:
        yield from ((name, base) for base in baselines for name in names if name not in baselines)
    elif config.pairs == "all":
        yield from ((one, other) for i, other in enumerate(names) for one in names[i + 1 :])
    else:
        taken: set[frozenset[str]] = set()
        known = {f"{one}-{other}": (one, other) for one, other in product(names, names) if one != other}
        for text in config.pairs:
            if text not in known:
                problem = f"must be two of {', '.join(names)} with a - between{did_you_mean(text, known)}"
                raise UsageError("pairs", text, problem)
            if (pair := frozenset(known[text])) in taken:
                raise UsageError("pairs", text, "these two are compared already")
            taken.add(pair)
            yield known[text]
