"""The cuts of an artefact, in sentences for its caption: the configuration that was run against the published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fsbench.config.compose import Job
from fsbench.config.load import shown
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.papers.artefact import Artefact, Values
from fsbench.reproduce.cells import Cell
from fsbench.runs.identity import essential, flatten

# What is said of a group whose choice differs; the keys below it then go without saying.
_GROUPS = {
    "model": "Network", "optimizer": "Method", "base": "Base optimizer", "schedule": "Schedule",
    "augment": "Augmentation",
}  # fmt: skip
# These go without saying where the data set is named; the last two unless it is the same.
_OF_THE_DATASET = ("name", "label", "root", "in_memory", "mean", "std")
# Stands for the paper's value of a key that belongs to a choice of our own.
_ITS_OWN = ""
# They don't change the network that comes out.
_SILENT = ("trainer.eval_every", "trainer.max_skipped", "seed", "dataset.seed")
_MEASURED_WITH = ("run", "device", "data_dir", "progress", "memory", "workers", "out", "overwrite", "measures")


@dataclass(frozen=True)
class Compared:
    """A cell as published and as it is run."""

    cell: Cell
    published: Job[TrainConfig]
    run: Job[TrainConfig]


def scope_cuts(artefact: Artefact, axes: Mapping[str, Values], compared: Sequence[Compared], seeds: int) -> list[str]:
    """Cells that were left out or are not the paper's, and fewer (or more) seeds."""
    said: list[str] = []
    cells = [one.cell for one in compared]
    run = {axis: {c.values[axis] for c in cells if c.extra is None or c.extra.axis != axis} for axis in artefact.axes}
    left = {axis: [v for v in published if v not in run[axis]] for axis, published in artefact.axes.items()}
    if any(left.values()):
        said.append(f"Left out: {_listed(left)}.")
    labels = {(extra.axis, extra.label) for extra in artefact.extras}
    folders = [label(one.run.config) for one in compared if one.cell.run.get("dataset") == "folder"]
    names = {"folder": f"folder ({folders[-1]})"} if folders else {}
    ours = {
        axis: [names.get(v, v) for v in values if v not in artefact.axes[axis] and (axis, v) not in labels]
        for axis, values in axes.items()
    }
    if any(ours.values()):
        said.append(f"Not in the paper: {_listed(ours)}.")
    if seeds != artefact.seeds:
        said.append(f"{seeds} seed{'s' * (seeds != 1)} instead of {artefact.seeds}.")
    added = {cell.extra.label: cell.extra.why for cell in cells if cell.extra is not None}
    return said + [f"Added to the paper's: {label}, {why.rstrip('.')}." for label, why in added.items()]


def run_cuts(artefact: Artefact, compared: Sequence[Compared]) -> list[str]:
    """Say where the training differs; a sentence for each key, with all pairs of values that the cells have."""
    # By key, the values here and those of the paper that they take the place of.
    pairs: dict[str, dict[str, dict[str, None]]] = {}
    cells: Counter[str] = Counter()
    for one in compared:
        foreign = [axis for axis, value in one.cell.run.items() if value not in artefact.axes[axis]]
        for key, here, there in _differences(one, foreign):
            pairs.setdefault(key, {}).setdefault(here, {})[there] = None
            cells[key] += 1
    said = []
    for key, found in pairs.items():
        if all(there == {_ITS_OWN: None} for there in found.values()):
            said.append(f"{key}={' or '.join(found)}.")
            continue
        sentence = _SENTENCES.get(key, f"{key} {{}}")
        words = [
            f"{here if i else sentence.format(here)} instead of {' or '.join(there)}"
            for i, (here, there) in enumerate(found.items())
        ]
        said.append(f"{' and '.join(words)}{', in some of the cells' if cells[key] < len(compared) else ''}.")
    return said


def settings_cuts(published: Job[SharpnessConfig] | None, run: Job[SharpnessConfig] | None) -> list[str]:
    """Say where the measuring differs."""
    if published is None:
        return []
    if run is None:
        return ["Sharpness was not measured."]
    theirs, ours = (job.config.model_dump(mode="json") for job in (published, run))
    said = []
    for key, value in ours.items():
        if key in _MEASURED_WITH or key == "dataset" or theirs[key] == value:
            continue
        here, there = _shown(value), _shown(theirs[key])
        if key == "samples":
            here, there = (f"{n:,}" if n is not None else "all" for n in (value, theirs[key]))
            said.append(f"Measured on {here} images instead of {there}.")
        else:
            said.append(f"Measured with {key} {here} instead of {there}.")
    return said


def _differences(one: Compared, foreign: Container[str]) -> Iterable[tuple[str, str, str]]:
    """Key, value here and in the paper, of whatever differs.

    Args:
        foreign: groups whose choice is not the paper's, so that it has no value for the keys below.
    """
    theirs, ours = (essential(job.config.model_dump(mode="json")) for job in (one.published, one.run))
    a, b = flatten(theirs), flatten(ours)
    swapped = [
        group for group in _GROUPS if group in a.keys() | ours.keys()
        and one.published.choices.get(group) != one.run.choices.get(group)
    ]  # fmt: skip
    same_data = label(one.published.config) == label(one.run.config)
    unsaid = _OF_THE_DATASET[: -2 if same_data and "dataset" not in foreign else None]
    if not same_data:
        yield "dataset", label(one.run.config), label(one.published.config)
    for group in swapped:
        yield group, one.run.choices.get(group, "null"), one.published.choices.get(group, "null")
    for key in b:
        group, _, name = key.partition(".")
        if key in _SILENT or group in swapped or (group == "dataset" and name in unsaid):
            continue
        if b[key] != a.get(key):
            here = _value(key, b[key], one.run.config)
            there = _value(key, a.get(key), one.published.config)
            yield key, here, _ITS_OWN if group in foreign and name != "subset" else there


def label(config: TrainConfig) -> str:
    """The data set's name in captions."""
    options = config.dataset
    return options.label or (options.name if options.root is None else options.root.rstrip("/").rpartition("/")[2])


def _value(key: str, value: Any, config: TrainConfig) -> str:
    if key == "dataset.subset":
        if value is not None:
            return f"{value:,}"
        known = config.dataset.counts
        return "all" if known is None else f"{known.train - config.dataset.validation:,}"
    if key == "trainer.max_steps" and value is None:
        return "all"
    return _shown(value)


_SENTENCES = {
    "dataset": "Data set: {}",
    "trainer.epochs": "Trained for {} epochs",
    "trainer.batch_size": "Batches of {} images",
    "trainer.max_steps": "Training stopped after {} steps",
    "dataset.subset": "Trained on {} images",
    "dataset.validation": "{} images held out for validation",
    **{group: f"{words}: {{}}" for group, words in _GROUPS.items()},
}


def _listed(by_axis: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{axis} {', '.join(values)}" for axis, values in by_axis.items() if values)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else shown(value)
