"""Executors carry out the runs of a sweep or a reproduction; the serial one does so in this process."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from fsbench.config.compose import Job
from fsbench.errors import FsbenchError, UsageError
from fsbench.lines import tell
from fsbench.population.plan import populations
from fsbench.runs.directory import RunDirectory, RunIsBusy
from fsbench.stop_signal import StopSignal
from fsbench.training.outcome import Outcome, finished

# Seconds for which the serial executor waits for each run that another process is at work on.
_PATIENCE = 600.0


class Ended(Protocol):
    """The end of a task, failed or not; it can be pickled."""

    @property
    def no_data(self) -> UsageError | None:
        """The fault of the images, if the task failed of that."""
        ...

    @property
    def busy(self) -> bool:
        """Another process is at work on the run."""
        ...


Result = TypeVar("Result", bound=Ended, covariant=True)


class Task(Protocol[Result]):
    """Something to be done for one run. It can be pickled, and done in another process."""

    @property
    def directory(self) -> RunDirectory: ...

    @property
    def data(self) -> tuple[str, str, str | None]:
        """The source of its images: data_dir, the data set's name and root."""
        ...

    def known(self) -> Result | None:
        """The outcome where there is nothing left to do."""
        ...

    def perform(self, stop: StopSignal) -> Result:
        """Do it; what goes wrong is an outcome. Raises Interrupted, having left a checkpoint."""
        ...

    @property
    def job(self) -> Job[Any]:
        """The run."""
        ...

    def trained(self, outcome: Outcome, stop: StopSignal) -> Result:
        """Do what comes after the run's training, which ended so. Raises Interrupted."""
        ...

    def failed(self, failure: FsbenchError) -> Result:
        """The outcome where it could not be done."""
        ...


class Executor(Protocol):
    """Whatever carries out tasks, here or elsewhere."""

    def run(self, tasks: Sequence[Task[Result]]) -> Iterator[Result]:
        """Yield each outcome as its task ends, in any order. Raises Interrupted where a signal came."""
        ...


class SerialExecutor:
    """One task after the other, in this process; last those whose runs another process is at work on.

    Runs that ask for it by `trainer.population=true`, and can be, are trained together first.

    Args:
        tell: says what happens meanwhile; a line on stderr.
    """

    def __init__(self, stop: StopSignal, tell: Callable[[str], None] = tell) -> None:
        self._stop, self._tell = stop, tell

    def run(self, tasks: Sequence[Task[Result]]) -> Iterator[Result]:
        rest = yield from self._together(tasks)
        busy: list[Task[Result]] = []
        absent: dict[tuple[str, str, str | None], UsageError] = {}
        for task in rest:
            self._stop.check()
            if task.data in absent:
                # It is not looked for, or downloaded, again for every run.
                yield task.failed(absent[task.data])
                continue
            outcome = task.perform(self._stop)
            if outcome.busy:
                busy.append(task)
                continue
            if outcome.no_data:
                absent[task.data] = outcome.no_data
            yield outcome
        for task in busy:
            self._tell(f"{task.directory.path}: another process is at work on it, which is waited for")
            wait_for_lock(task.directory, self._stop, _PATIENCE)
            self._stop.check()
            yield task.perform(self._stop)

    def _together(self, tasks: Sequence[Task[Result]]) -> Generator[Result, None, list[Task[Result]]]:
        """Train populations; returns the tasks that are left."""

        def missing(task: Task[Result]) -> bool:
            try:
                return task.job.config.trainer.population and finished(task.job)[1] is None
            except FsbenchError:
                return False

        asking = [task for task in tasks if missing(task)]
        groups, alone = populations([task.job for task in asking])
        for reason, count in Counter(alone.values()).items():
            self._tell(f"{count} run{'s' * (count > 1)} trained alone: {reason}")
        busy: list[Task[Result]] = []
        for group in groups:
            from fsbench.population.train import train_population

            self._stop.check()
            for number, outcome in train_population([asking[number].job for number in group], self._stop):
                task = asking[group[number]]
                if outcome.busy:
                    busy.append(task)
                else:
                    yield task.trained(outcome, self._stop)
        members = {id(asking[number]) for group in groups for number in group}
        return [task for task in tasks if id(task) not in members] + busy


def wait_for_lock(directory: RunDirectory, stop: StopSignal, patience: float) -> None:
    """Wait until nobody holds the run, so many seconds at most, or until a signal comes."""
    until = time.monotonic() + patience
    while directory.path.is_dir() and time.monotonic() < until and not stop.requested:
        with suppress(RunIsBusy), directory.locked(patience=0.0):
            return
        time.sleep(0.2)
