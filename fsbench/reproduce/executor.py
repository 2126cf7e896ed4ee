"""Carrying out what is missing: tasks, how each ended, and the executor that runs them one after the other."""

from __future__ import annotations

import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import environ
from typing import Protocol

from fsbench.config.compose import Job
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import Interrupted, UsageError, one_line
from fsbench.reproduce.measure import measure_lacking
from fsbench.runs.directory import RunDirectory
from fsbench.training.attempt import attempt
from fsbench.training.stop_signal import StopSignal, at_once


@dataclass(frozen=True)
class Task:
    """One run to be trained, if it is not finished, and then measured."""

    directory: RunDirectory
    job: Job[TrainConfig]
    measuring: tuple[Job[SharpnessConfig], ...] = ()

    @property
    def data(self) -> tuple[str, str, str | None]:
        """Where its images come from."""
        config = self.job.config
        return config.data_dir, config.dataset.name, config.dataset.root


@dataclass(frozen=True)
class Outcome:
    """How a task ended: a line for a reader, and what failed, if anything did.

    Args:
        untrained: why there is no trained network.
        unmeasured: why a measure is missing, by its name.
    """

    task: Task
    line: str
    untrained: BaseException | None = None
    unmeasured: tuple[tuple[str, str], ...] = ()

    @property
    def reason(self) -> str:
        """What failed, in a line; empty where nothing did."""
        if self.untrained is not None:
            return one_line(self.untrained)
        return "; ".join(f"{name}: {what}" for name, what in self.unmeasured)

    @property
    def no_data(self) -> UsageError | None:
        """What is wrong with the images, if that is why."""
        failure = self.untrained
        return failure if isinstance(failure, UsageError) and failure.key in ("data_dir", "dataset.root") else None


class Executor(Protocol):
    """Whatever carries out tasks, here or elsewhere, and yields each as it ends, in any order."""

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        """A task that fails is an outcome; Interrupted is raised where a signal came."""
        ...


class SerialExecutor:
    """One task after the other, in this process."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def run(self, tasks: Sequence[Task]) -> Iterator[Outcome]:
        absent: dict[str, UsageError] = {}
        for task in tasks:
            self._stop.check()
            data = task.data
            if data in absent:
                # It is not looked for, or downloaded, again for every run.
                yield Outcome(task, f"{task.directory.path}: failed, {absent[data]}", untrained=absent[data])
                continue
            outcome = perform(task, self._stop)
            if outcome.no_data:
                absent[data] = outcome.no_data
            yield outcome


def perform(task: Task, stop: StopSignal) -> Outcome:
    """Train and measure what is missing. Raises Interrupted."""
    try:
        trained = attempt(task.job, stop)
    except UsageError as failure:
        return Outcome(task, f"{task.directory.path}: failed, {failure}", untrained=failure)
    if trained.failure is not None:
        return Outcome(task, trained.line, untrained=trained.failure)
    computed, unmeasured = 0, {}
    for job in task.measuring:
        stop.check()
        with at_once():
            done, failed = _measured(task, job)
        computed += done
        unmeasured |= failed
    line = trained.line
    if computed:
        line += f", {computed} measure{'s' * (computed > 1)}"
    if unmeasured:
        line += "".join(f"; {name} failed, {reason}" for name, reason in unmeasured.items())
    return Outcome(task, line, unmeasured=tuple(unmeasured.items()))


def _measured(task: Task, job: Job[SharpnessConfig]) -> tuple[int, dict[str, str]]:
    try:
        return measure_lacking(job)
    except KeyboardInterrupt:
        raise Interrupted(f"{task.directory.path}: interrupted; the same command goes on from here") from None
    except Interrupted:
        raise
    except Exception as failure:
        if environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
        return 0, dict.fromkeys(job.config.measures or (), one_line(failure))
