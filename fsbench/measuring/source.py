"""The source of a measure, a finished run or a network and a data set; found and checked without torch."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from fsbench.config.augment import AugmentOptions, StandardAugment
from fsbench.config.component import Component
from fsbench.config.dataset import DatasetOptions
from fsbench.config.load import load
from fsbench.config.loss import CrossEntropyOptions, LossOptions
from fsbench.config.model import ModelOptions, Timm
from fsbench.config.sharpness import MovedDataset, SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError, did_you_mean
from fsbench.lines import tell
from fsbench.plugins import plugins_read
from fsbench.runs.atomic import write_text
from fsbench.runs.directory import RunDirectory, refuse_unwritable
from fsbench.runs.read import Unreadable, read_json, read_yaml

if TYPE_CHECKING:
    from fsbench.config.compose import Job

_RUNS = Path("runs")
# Draws of a data set that follow its seed.
_DRAWN = ("validation", "subset", "noise", "random_labels", "confusion")


class Unfinished(UsageError):
    """The run is there, but not finished: `status` says what became of it."""

    def __init__(self, run: str, status: str) -> None:
        super().__init__("run", run, f"is not finished: {status}")
        self.status = status

    def __reduce__(self):
        return type(self), (self.value, self.status)


@dataclass(frozen=True)
class Source:
    """A network and its images.

    Args:
        directory: where the record lies.
        weights: a word for what the weights are; the record is about these and no others.
        model, dataset, augment, loss: as configured; `model.checkpoint` is the file of the weights, if there is one.
        seed: of the initial weights, where no file and no published weights replace them.
        trained_on: sha256 of the training images and labels, where known.
    """

    directory: RunDirectory
    weights: str
    model: ModelOptions
    dataset: DatasetOptions
    augment: AugmentOptions
    loss: LossOptions
    data_dir: Path
    workers: int
    seed: int
    trained_on: str | None = None
    is_run: bool = True

    @property
    def title(self) -> str:
        return str(self.directory.path)

    @property
    def described(self) -> dict[str, Any]:
        """Everything that determines weights and images."""
        dataset = self.dataset.model_dump(mode="json", exclude={"label", "in_memory"})
        if not any(dataset[key] for key in _DRAWN):
            del dataset["seed"]
        # A file counts by what is in it.
        model = self.model.model_dump(mode="json", exclude={"checkpoint"})
        augment = self.augment.model_dump(mode="json", include={"random_resized_crop", "resize", "size"})
        return {"weights": self.weights, "model": model, "dataset": dataset, "augment": augment}

    def prepare(self) -> None:
        """See that the record can be written, and say in `source.yaml` what it is about, if not a run."""
        try:
            self.directory.path.mkdir(parents=True, exist_ok=True)
            with self.directory.locked():
                if self.directory.sharpness.is_dir():
                    raise Unreadable(self.directory.sharpness, "a directory", "delete it")
                if not self.is_run:
                    write_text(self.directory.path / "source.yaml", yaml.safe_dump(self.described, sort_keys=False))
        except OSError as failure:
            problem = f"can't write there: {failure.strerror}"
            raise UsageError("run" if self.is_run else "out", self.directory.path, problem) from None


def find_source(job: Job[SharpnessConfig]) -> Source:
    """The network and images a configuration asks for.

    Raises:
        Unfinished: the run is not finished.
        UsageError: it does not exist, lacks its weights or its configuration; `out` holds something else.
    """
    config = job.config
    if config.run is None:
        return _network(config, job.choices)
    moved = config.dataset.root if isinstance(config.dataset, MovedDataset) else None
    return find_run(config.run, moved, config.data_dir, config.workers)


def run_directory(run: str) -> RunDirectory:
    """The directory of a run, finished or not.

    Raises:
        UsageError: there is none, or it is not a run's.
    """
    path = Path(run)
    directory = RunDirectory(path)
    if not path.is_dir():
        near = did_you_mean(path.name, [p.name for p in path.parent.glob("*")] if path.parent.is_dir() else [])
        raise UsageError("run", run, f"no such directory{near}")
    if not os.path.exists(directory.config):
        raise UsageError("run", run, "is not a run directory: it holds no config.yaml")
    return directory


def find_run(run: str, root: str | None = None, data_dir: str | None = None, workers: int = 2) -> Source:
    """The network and images of a finished run.

    Args:
        root: where the folder of images lies now that it was trained on.
        data_dir: where its data set lies now.

    Raises:
        Unfinished: the run is not finished.
        UsageError: it does not exist, lacks its weights or its configuration.
    """
    directory = run_directory(run)
    if not directory.finished:
        raise Unfinished(run, directory.status)
    if not os.path.isfile(directory.model):
        raise UsageError("run", run, "holds no model.safetensors; overwrite=true trains it again")
    options = trained_as(directory)
    dataset = options.dataset
    if root is not None:
        if dataset.root is None:
            problem = f"the data set of {run} is {dataset.name}, which lies under data_dir"
            raise UsageError("dataset.root", root, problem)
        dataset = dataset.model_copy(update={"root": root})
    weights: dict[str, Any] = {"checkpoint": str(directory.model)}
    if isinstance(options.model, Timm):
        weights["pretrained"] = False
    return Source(
        directory=directory,
        weights=_sha256(directory.model),
        model=options.model.model_copy(update=weights),
        dataset=dataset,
        augment=options.augment,
        loss=options.loss,
        data_dir=Path(data_dir or options.data_dir),
        workers=workers,
        seed=options.seed,
        trained_on=_training_data(directory),
    )


def _network(config: SharpnessConfig, choices: dict[str, str]) -> Source:
    model, dataset = config.model, config.dataset
    assert model is not None  # SharpnessConfig sees to both
    assert isinstance(dataset, DatasetOptions)
    if model.checkpoint is not None and not Path(model.checkpoint).is_file():
        raise UsageError("model.checkpoint", model.checkpoint, "there is no such file")
    pretrained = isinstance(model, Timm) and model.pretrained
    if model.checkpoint is not None:
        weights, seed = _sha256(Path(model.checkpoint)), 0
    elif pretrained:
        weights, seed = "pretrained", 0
    else:
        weights, seed = f"initial, seed {config.seed}", config.seed
    found = Source(
        directory=RunDirectory(Path("")),
        weights=weights,
        model=model,
        dataset=dataset,
        augment=config.augment or StandardAugment(),
        loss=config.loss or CrossEntropyOptions(),
        data_dir=Path(config.data_dir or "data"),
        workers=config.workers,
        seed=seed,
        is_run=False,
    )
    name = (model.name or choices["model"]) if isinstance(model, Timm) else choices["model"]
    identity = hashlib.sha256(json.dumps(found.described, sort_keys=True).encode()).hexdigest()[:8]
    default = _RUNS / "sharpness" / f"{choices['dataset']}-{name.replace('/', '_')}-{identity}"
    place = Path(config.out) if config.out is not None else default
    _refuse_other(place, found.described)
    return replace(found, directory=RunDirectory(place))


def _refuse_other(place: Path, described: dict[str, Any]) -> None:
    """Raise UsageError where the directory is another network's, or something else, or can't be written."""
    refuse_unwritable("out", place)
    if place.exists() and not place.is_dir():
        raise UsageError("out", place, "is not a directory")
    if not place.is_dir():
        return
    if not (place / "source.yaml").is_file():
        strangers = [p.name for p in place.iterdir() if p.name != "lock" and not p.name.startswith(".")]
        if strangers:
            raise UsageError("out", place, f"holds other files ({strangers[0]}, ...)")
        return
    try:
        theirs: object = read_yaml(place / "source.yaml")
    except Unreadable:
        theirs = None
    if theirs != described:
        raise UsageError("out", place, "holds the measures of another network or data set; choose another directory")


def trained_as(directory: RunDirectory) -> TrainConfig:
    """The configuration that a run recorded; raises UsageError where it can't be used."""
    recorded = read_yaml(directory.config)
    if isinstance(recorded.get("optimizer"), dict):
        recorded["optimizer"].pop("together", None)  # older runs say how their sub-batches were passed
    try:
        config = load(recorded, TrainConfig)
    except UsageError as failure:
        problem = f"its config.yaml can't be used: {failure}{missing_plugins(directory)}"
        raise UsageError("run", directory.path, problem) from None
    for group, component in config:
        if isinstance(component, Component) and component.source != getattr(component, "plugin", ""):
            name = getattr(component, component.key)
            tell(f"note: {directory.path}: the file that declares {group}={name} has changed since the run")
    return config


def missing_plugins(directory: RunDirectory) -> str:
    """The plugins to give, where the run was made with some that are not there now."""
    with suppress(FileNotFoundError, Unreadable, TypeError):
        missing = read_json(directory.provenance).get("plugins", {}).keys() - plugins_read().keys()
        return "".join(f"; it was made with --plugin {name}" for name in sorted(missing))
    return ""


def _training_data(directory: RunDirectory) -> str | None:
    try:
        return str(read_json(directory.provenance)["data"]["sha256"])
    except (FileNotFoundError, Unreadable, KeyError, TypeError):
        return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
