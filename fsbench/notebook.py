"""Runs from Python: train, load, measure, compare; what the commands do, in the same directories."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from fsbench.config.load import override_value
from fsbench.errors import FsbenchError, Interrupted
from fsbench.measuring.measures import chosen_measures
from fsbench.measuring.source import Unfinished, find_run, run_directory, trained_as
from fsbench.runs.directory import RunDirectory
from fsbench.runs.records import number, read_measures, read_records

if TYPE_CHECKING:
    from torch import nn

    from fsbench.config.train import TrainConfig


@dataclass(frozen=True)
class Run:
    """A run directory; it is read when it is asked.

    Args:
        path: the directory.
    """

    path: Path

    @property
    def status(self) -> str:
        """`done`, `running`, `interrupted`, `failed` or `diverged`; `unknown` where the directory says nothing."""
        return self._directory.status

    @property
    def config(self) -> TrainConfig:
        """The configuration that it recorded, checked: `run.config.optimizer.lr`."""
        return trained_as(self._directory)

    @property
    def metrics(self) -> pd.DataFrame:
        """A row for each epoch so far; losses in nats, accuracies in [0, 1], times in seconds."""
        return pd.DataFrame(self._directory.read_metrics())

    @property
    def results(self) -> pd.Series:
        """The results of its summary by name: `run.results["test_accuracy"]`. Raises UsageError until it is done."""
        if not self._directory.finished:
            raise Unfinished(str(self.path), self.status)
        return pd.Series(self._directory.read_results(), name=self.path.name, dtype=float)

    @property
    def sharpness(self) -> pd.DataFrame:
        """The measures that it recorded, as `measure` returns them."""
        return _estimates(read_measures(self._directory.sharpness)["measures"])

    def model(self, device: str = "cpu") -> nn.Module:
        """The trained network in eval mode. Raises UsageError until the run is done."""
        import torch

        from fsbench.measuring.network import TrainingImages, build_network

        source = find_run(str(self.path))
        # The weights come from the file: drawing initial ones is to change nothing for the caller.
        with torch.random.fork_rng(devices=[]):
            network, _ = build_network(source, TrainingImages.of(source), torch.device(device), torch.float32)
        return network

    @property
    def _directory(self) -> RunDirectory:
        return RunDirectory(self.path)


def load(run: str | Path) -> Run:
    """A run directory, finished or not.

    >>> load(run.path).config.optimizer.rho
    0.05

    Raises:
        UsageError: there is none, or it is not a run's.
    """
    return Run(run_directory(str(Path(run).expanduser())).path)


def runs(*directories: str | Path) -> pd.DataFrame:
    """All finished runs at or below directories (`runs`, unless said), a row each.

    Columns are those of `fsbench table`: the directory (`run`), choices (`optimizer`), configuration keys
    (`optimizer.rho`), results (`test_accuracy`) and measures (`hessian_trace`). `attrs["unfinished"]` of the frame
    counts the other runs by status.

    >>> runs("runs")[["optimizer", "optimizer.rho", "seed"]]
      optimizer  optimizer.rho  seed
    0       sam           0.05     1

    Raises:
        UsageError: a directory does not exist.
    """
    records = read_records([Path(directory).expanduser() for directory in directories or ("runs",)])
    frame = pd.DataFrame(records.rows)
    frame.attrs["unfinished"] = records.unfinished
    return frame


def train(*overrides: str | Mapping[str, Any], config_dir: str | None = None, **keys: Any) -> Run:
    """Train a run as `fsbench train` does: one that is done is not repeated, an interrupted one goes on.

    >>> run = train("dataset=digits", "model=mlp", {"trainer.epochs": 1}, optimizer="sam", seed=1)
    runs/digits-mlp-sam-s1-...: done, test accuracy ... % (train ... %), ... s
    >>> run.metrics["epoch"].to_list()
    [1]

    Args:
        overrides: as on the command line, or a table of values by key.
        config_dir: config groups of one's own.
        keys: values of keys without a dot.

    Raises:
        UsageError: bad input, in the words of the command.
        Diverged, RunIsBusy, FsbenchError: as the command ends by them.
        KeyboardInterrupt: it was interrupted; a checkpoint is written, and the same call goes on from there.
    """
    from fsbench.cli.train import train as carry_out
    from fsbench.config.compose import compose_jobs
    from fsbench.stop_signal import stop_signal
    from fsbench.training.outcome import directory_of

    with _interruptible(), stop_signal() as stop:
        jobs = compose_jobs(_line(*overrides, keys), multirun=False, config_dir=config_dir)
        carry_out(jobs, False, stop)
    run = Run(directory_of(jobs[0]).path)
    if not run._directory.finished:  # on another executor, which has said why
        raise Unfinished(str(run.path), run.status)
    return run


def measure(
    run: Run | str | Path, measures: str | Iterable[str] | None = None, *overrides: str | Mapping[str, Any], **keys: Any
) -> Any:
    """Measure a run's sharpness, or declare a measure of one's own (`@fsbench.measure("name")`).

    Measuring is as `fsbench sharpness run=...` does it: it is recorded, and not done again.

    >>> measure(run, ["trace", "minimum"], samples=100)[["exact", "images", "of"]]
                       exact  images    of
    measure
    hessian_trace       True     100  1437
    minimum_sharpness   True     100  1437

    Args:
        measures: names of `fsbench list measures`; None: the default set.
        overrides, keys: options of `fsbench sharpness`, as for `train`.

    Returns:
        By column of tables: value, standard error over the measure's own draws (`stderr`) and over images
        (`example_stderr`), whether it is exact, how many images it is of, and why there is no value (`refused`).

    Raises:
        UsageError: bad input, in the words of the command.
        FsbenchError: a measure failed; the others are recorded.
        KeyboardInterrupt: it was interrupted; what was measured is recorded.
    """
    from fsbench.cli.sharpness import measure_one
    from fsbench.config.compose import compose_jobs
    from fsbench.config.primary import SHARPNESS

    if isinstance(run, str) and measures is None and not overrides and not Path(run).expanduser().is_dir():
        from fsbench.declare import measure as declare

        return declare(run, **keys)
    place = str(run.path if isinstance(run, Run) else run)
    names = [measures] if isinstance(measures, str) else measures if measures is None else list(measures)
    line = _line({"run": place, "measures": names}, *overrides, keys)
    with _interruptible():
        (job,) = compose_jobs(line, multirun=False, primary=SHARPNESS)
        chosen_measures(job.config.measures)
        outcome = measure_one(job)
    if outcome.failed:
        raise FsbenchError(f"{place}: " + "; ".join(f"{name} failed, {why}" for name, why in outcome.failed.items()))
    return _estimates(outcome.entries)


def _estimates(entries: dict[str, dict[str, Any]]) -> pd.DataFrame:
    columns = ("value", "stderr", "example_stderr", "exact", "images", "of", "method", "refused", "notes", "settings")
    rows = [
        {**entry, "value": number(entry), "images": entry["images"]["used"], "of": entry["images"]["of"]}
        for entry in entries.values()
    ]
    frame = pd.DataFrame(rows, index=pd.Index(entries, name="measure", dtype=object), columns=list(columns))
    return frame.astype(dict.fromkeys(columns[:3], float))


@contextmanager
def _interruptible() -> Iterator[None]:
    """An interrupt ends a notebook's cells and a script's loops, as Python's own does."""
    try:
        yield
    except Interrupted as stopped:
        raise KeyboardInterrupt(str(stopped)) from None


def _line(*parts: str | Mapping[str, Any]) -> list[str]:
    """Overrides as on the command line."""
    line: list[str] = []
    for part in parts:
        line += [part] if isinstance(part, str) else [f"{key}={_text(value)}" for key, value in part.items()]
    return line


def _text(value: Any) -> str:
    """A value in the grammar of overrides."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, str | Path):
        return QuotedString(str(value), Quote.single).with_quotes()
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(inner)}" for key, inner in value.items()) + "}"
    return "[" + ",".join(map(_text, value)) + "]" if isinstance(value, Iterable) else override_value(value)
