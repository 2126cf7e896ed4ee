"""A run from outside: whether it is finished, how it ended, in a line. Needs no torch until something is trained."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from fsbench.config.compose import Job
from fsbench.errors import FsbenchError, Interrupted, UsageError, first_line, portable
from fsbench.image_folder import files_digest, folder_parts
from fsbench.runs.directory import RunDirectory, RunIsBusy
from fsbench.runs.read import Unreadable, read_json
from fsbench.stop_signal import StopSignal

# What torch's launcher sets for each process.
_LAUNCHED = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Outcome:
    """The end of one of several runs: `done`, `skipped` (was done before), `failed` or `busy`; a line for a reader."""

    status: str
    line: str
    failure: BaseException | None = None

    @property
    def no_data(self) -> UsageError | None:
        """The failure, if it is that the images are not there."""
        return missing_images(self.failure)

    @property
    def busy(self) -> bool:
        """Another process is at work in the run's directory."""
        return isinstance(self.failure, RunIsBusy)

    def __reduce__(self) -> tuple[Any, ...]:
        return Outcome, (self.status, self.line, portable(self.failure))


@dataclass(frozen=True)
class TrainingTask:
    """One run of a sweep, for an executor."""

    job: Job

    @cached_property
    def directory(self) -> RunDirectory:
        return directory_of(self.job)

    @property
    def data(self) -> tuple[str, str, str | None]:
        return images_of(self.job)

    def known(self) -> Outcome | None:
        """The outcome of a run that was done before or can't be begun; None for one that is to be trained."""
        try:
            directory, results = finished(self.job)
        except FsbenchError as failure:
            return self.failed(failure)
        return None if results is None else Outcome("skipped", already_done(self.job, directory, results))

    def perform(self, stop: StopSignal) -> Outcome:
        return self.trained(train_if_missing(self.job, stop), stop)

    def trained(self, outcome: Outcome, stop: StopSignal) -> Outcome:
        """The outcome after whatever follows the training; here nothing does."""
        return outcome

    def failed(self, failure: FsbenchError) -> Outcome:
        return failed_outcome(self.directory, failure)


def images_of(job: Job) -> tuple[str, str, str | None]:
    """The source of a run's images: data_dir, the data set's name and root."""
    config = job.config
    return config.data_dir, config.dataset.name, config.dataset.root


def missing_images(failure: BaseException | None) -> UsageError | None:
    """The failure, if it is that the images are not there."""
    return failure if isinstance(failure, UsageError) and failure.key in ("data_dir", "dataset.root") else None


def directory_of(job: Job) -> RunDirectory:
    return RunDirectory.of(job.config.model_dump(mode="json"), job.choices)


def finished(job: Job) -> tuple[RunDirectory, dict[str, Any] | None]:
    """The job's directory, and its results if it is finished and not to be overwritten."""
    directory = directory_of(job)
    directory.refuse_other_config(job.config.model_dump(mode="json"), overwrite=job.config.overwrite)
    if job.config.overwrite or not directory.finished:
        return directory, None
    directory.remove_leftovers()
    return directory, directory.read_results()


def run(job: Job, stop: StopSignal) -> dict[str, Any]:
    """Train; returns the results. Several devices get a process each, unless torchrun has started them."""
    stop.check()
    if job.config.trainer.devices > 1 and not by_torchrun():
        from fsbench.training.launch import launch

        return launch(job, stop)
    from fsbench.training.run import train

    return train(job, stop)


def by_torchrun() -> bool:
    """True if this process is one of several that torch's launcher started.

    Raises:
        UsageError: the environment says so, and lacks what the launcher sets beside it.
    """
    given = {name: os.environ.get(name) or None for name in _LAUNCHED}
    count = _number("WORLD_SIZE", given["WORLD_SIZE"] or "1")
    if count < 2 or given["RANK"] is None:
        return False
    for name, value in given.items():
        if value is None:
            problem = f"{name} is not set; torchrun sets both, and without it the variables have to be unset"
            raise UsageError("WORLD_SIZE", count, problem)
    for name in ("RANK", "LOCAL_RANK"):
        if not 0 <= _number(name, given[name]) < count:
            raise UsageError(name, given[name], f"must be 0 to {count - 1}, below WORLD_SIZE")
    _number("MASTER_PORT", given["MASTER_PORT"])
    return True


def _number(name: str, text: str | None) -> int:
    if text is None or not text.isdecimal():
        raise UsageError(name, text, "the environment variable must be a whole number, as torchrun sets it")
    return int(text)


def train_if_missing(job: Job, stop: StopSignal) -> Outcome:
    """Train unless it is done; a failure is an outcome. Raises Interrupted."""
    try:
        directory, results = finished(job)
    except Unreadable as failure:
        return failed_outcome(directory_of(job), failure)
    if results is not None:
        return Outcome("skipped", already_done(job, directory, results))
    try:
        return Outcome("done", f"{directory.path}: done, {described(run(job, stop))}")
    except Interrupted:
        raise
    # A run must not end the others, not even by SystemExit.
    except (Exception, SystemExit) as failure:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" and not isinstance(failure, FsbenchError):
            traceback.print_exc()
        return failed_outcome(directory, failure)


def failed_outcome(directory: RunDirectory, failure: BaseException) -> Outcome:
    """The outcome of a run that ended so: it is busy where another process is at work on it."""
    if isinstance(failure, RunIsBusy):
        return Outcome("busy", f"{directory.path}: busy, another process trains it", failure)
    explained = isinstance(failure, FsbenchError)
    line = f"{directory.path}: failed, {failure}" if explained else failed_line(directory, failure)
    return Outcome("failed", line, failure)


def already_done(job: Job, directory: RunDirectory, results: dict[str, Any]) -> str:
    """The line about a run that was finished before; it says if the folder of its images has changed since."""
    root, changed = job.config.dataset.root, ""
    if root is not None:
        try:
            recorded = read_json(directory.provenance)["data"]["files"]
            if recorded != _files_now(root):
                changed = f"; the files in dataset.root={root} have changed since"
        except (OSError, ValueError, KeyError, TypeError, UsageError):
            pass  # nothing is known of then, or of now
    return f"{directory.path}: already done, {described(results)}{changed}"


@lru_cache
def _files_now(root: str) -> str:
    return files_digest(*folder_parts(Path(root).expanduser()))


def failed_line(directory: RunDirectory, failure: BaseException) -> str:
    where = f"; the traceback is in {directory.traceback}" if directory.traceback.is_file() else ""
    return f"{directory.path}: failed, {type(failure).__name__}: {first_line(failure)}{where}"


def described(results: dict[str, Any]) -> str:
    return (
        f"test accuracy {100 * results['test_accuracy']:.2f} % "
        f"(train {100 * results['train_accuracy']:.2f} %), {results['seconds']:.1f} s"
    )
