"""What executors take and give: tasks, their outcomes, and the promise of every executor."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

from fsbench.config.compose import Job
from fsbench.errors import FsbenchError, UsageError
from fsbench.runs.directory import RunDirectory
from fsbench.training.attempt import Outcome as Trained
from fsbench.training.stop_signal import StopSignal


class Ended(Protocol):
    """How a task ended; it can be pickled."""

    @property
    def no_data(self) -> UsageError | None:
        """What is wrong with the images, if the task failed of that."""
        ...

    @property
    def busy(self) -> bool:
        """Another process is at work on the run."""
        ...


Outcome = TypeVar("Outcome", bound=Ended)


class Task(Protocol[Outcome]):
    """Something to be done for one run. It can be pickled, and done in another process."""

    @property
    def directory(self) -> RunDirectory: ...

    @property
    def data(self) -> tuple[str, str, str | None]:
        """Where its images come from."""
        ...

    def known(self) -> Outcome | None:
        """The outcome where there is nothing left to do."""
        ...

    def perform(self, stop: StopSignal) -> Outcome:
        """Do it; what goes wrong is an outcome. Raises Interrupted, having left a checkpoint."""
        ...

    @property
    def job(self) -> Job:
        """The run."""
        ...

    def trained(self, outcome: Trained, stop: StopSignal) -> Outcome:
        """Do what comes after the run's training, which ended so. Raises Interrupted."""
        ...

    def failed(self, failure: FsbenchError) -> Outcome:
        """The outcome where it could not be done."""
        ...


class Executor(Protocol):
    """Whatever carries out tasks, here or elsewhere."""

    def run(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        """Yield each outcome as its task ends, in any order. Raises Interrupted where a signal came."""
        ...
