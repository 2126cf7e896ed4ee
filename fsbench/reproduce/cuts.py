"""The cuts of an artefact, in sentences for its caption: the configuration that was run against the published."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

from fsbench.config.compose import Job
from fsbench.config.load import override_value
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.papers.artefact import Artefact
from fsbench.reproduce.cells import Candidates, PlannedRun
from fsbench.runs.identity import essential, flatten

# What is said of a group whose choice differs; the keys below it then go without saying.
_GROUPS = {
    "model": "Network", "optimizer": "Method", "base": "Base optimizer", "schedule": "Schedule",
    "augment": "Augmentation",
}  # fmt: skip
_SENTENCES = {
    "dataset": "Data set: {}",
    "trainer.epochs": "Trained for {} epochs",
    "trainer.batch_size": "Batches of {} images",
    "trainer.max_steps": "Training stopped after {} steps",
    "dataset.subset": "Trained on {} images",
    "dataset.validation": "{} images held out for validation",
    **{group: f"{words}: {{}}" for group, words in _GROUPS.items()},
}
# These go without saying where the data set is named; the last two unless it is the same.
_OF_THE_DATASET = ("name", "label", "root", "in_memory", "mean", "std")
# Stands for the paper's value of a key that belongs to a choice of our own.
_ITS_OWN = ""
# They don't change the network that comes out.
_SILENT = ("trainer.eval_every", "trainer.max_skipped", "seed", "dataset.seed")
_MEASURED_WITH = ("run", "device", "data_dir", "progress", "memory", "workers", "out", "overwrite", "measures")


def scope_cuts(artefact: Artefact, runs: Sequence[PlannedRun], seeds: int) -> Iterator[str]:
    """Cells that were left out or are not the paper's, and fewer (or more) seeds.

    Args:
        runs: one of each cell.
    """
    extras = [run.cell.extra for run in runs if run.cell.extra is not None]
    found = {
        axis: dict.fromkeys(run.cell.values[axis] for run in runs if getattr(run.cell.extra, "axis", None) != axis)
        for axis in artefact.axes
    }
    left = {axis: [v for v in artefact.axes[axis] if v not in values] for axis, values in found.items()}
    if listed := _listed(left):
        yield f"Left out: {listed}."
    folders = [_label(run.job.config) for run in runs if run.cell.run.get("dataset") == "folder"]
    names = {"folder": f"folder ({folders[-1]})"} if folders else {}
    ours = {axis: [names.get(v, v) for v in values if v not in artefact.axes[axis]] for axis, values in found.items()}
    if listed := _listed(ours):
        yield f"Not in the paper: {listed}."
    if seeds != artefact.seeds:
        yield f"{seeds} seed{'s' * (seeds != 1)} instead of {artefact.seeds}."
    for label, why in {extra.label: extra.why for extra in extras}.items():
        yield f"Added to the paper's: {label}, {why.rstrip('.')}."


def run_cuts(artefact: Artefact, runs: Sequence[PlannedRun], published: Sequence[Job[TrainConfig]]) -> Iterator[str]:
    """Say where the training differs; a sentence for each key, with all pairs of values that the cells have.

    Args:
        runs: one of each cell.
        published: the same cells as published.
    """
    # By key, the values here and those of the paper that they take the place of.
    pairs: dict[str, dict[str, dict[str, None]]] = {}
    cells: Counter[str] = Counter()
    for run, theirs in zip(runs, published, strict=True):
        foreign = [axis for axis, value in run.cell.run.items() if value not in artefact.axes[axis]]
        for key, here, there in _differences(run.job, theirs, foreign):
            pairs.setdefault(key, {}).setdefault(here, {})[there] = None
            cells[key] += 1
    for key, found in pairs.items():
        if all(there == {_ITS_OWN: None} for there in found.values()):
            yield f"{key}={' or '.join(found)}."
            continue
        sentence = _SENTENCES.get(key, f"{key} {{}}")
        words = [
            f"{here if i else sentence.format(here)} instead of {' or '.join(there)}"
            for i, (here, there) in enumerate(found.items())
        ]
        yield f"{' and '.join(words)}{', in some of the cells' if cells[key] < len(runs) else ''}."


def choice_cuts(found: Sequence[Candidates]) -> Iterator[str]:
    """Say which values were chosen, from which, by which images, and where that differs from the paper's way."""
    for one in found[:1]:
        choice, values = one.choice, tuple(value for value, _ in one.runs)
        fewer = "" if values == choice.values else f" instead of {', '.join(choice.values)}"
        aside = "" if one.held_out == choice.held_out else f" instead of {choice.held_out:,}"
        yield (
            f"{choice.key} chosen from {', '.join(values)}{fewer} by the accuracy on {one.held_out:,}{aside} other "
            f"training images, one run each: {'; '.join(map(str, found))}; the paper does not print what it chose."
        )


def settings_cuts(published: Job[SharpnessConfig] | None, run: Job[SharpnessConfig] | None) -> Iterator[str]:
    """Say where the measuring differs."""
    if published is None:
        return
    if run is None:
        yield "Sharpness was not measured."
        return
    theirs, ours = (job.config.model_dump(mode="json") for job in (published, run))
    for key, value in ours.items():
        if key in _MEASURED_WITH or key == "dataset" or theirs[key] == value:
            continue
        here, there = _value_text(value), _value_text(theirs[key])
        if key == "samples":
            here, there = (f"{n:,}" if n is not None else "all" for n in (value, theirs[key]))
            yield f"Measured on {here} images instead of {there}."
        else:
            yield f"Measured with {key} {here} instead of {there}."


def _differences(
    run: Job[TrainConfig], published: Job[TrainConfig], foreign: Container[str]
) -> Iterator[tuple[str, str, str]]:
    """Key, value here and in the paper, of whatever differs.

    Args:
        foreign: groups whose choice is not the paper's, so that it has no value for the keys below.
    """
    theirs, ours = (essential(job.config.model_dump(mode="json")) for job in (published, run))
    a, b = flatten(theirs), flatten(ours)
    swapped = [
        group for group in _GROUPS
        if group in a.keys() | ours.keys() and published.choices.get(group) != run.choices.get(group)
    ]  # fmt: skip
    here, there = _label(run.config), _label(published.config)
    unsaid = _OF_THE_DATASET[: -2 if here == there and "dataset" not in foreign else None]
    if here != there:
        yield "dataset", here, there
    for group in swapped:
        yield group, run.choices.get(group, "null"), published.choices.get(group, "null")
    for key in b:
        group, _, name = key.partition(".")
        if key in _SILENT or group in swapped or (group == "dataset" and name in unsaid):
            continue
        if b[key] != a.get(key):
            there = _value(key, a.get(key), published.config)
            own = group in foreign and name != "subset"
            yield key, _value(key, b[key], run.config), _ITS_OWN if own else there


def _label(config: TrainConfig) -> str:
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
    return _value_text(value)


def _listed(by_axis: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(f"{axis} {', '.join(values)}" for axis, values in by_axis.items() if values)


def _value_text(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else override_value(value)
