"""Carrying out what is missing: a task for an executor, and how it ended."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from os import environ
from typing import Any

from fsbench.config.compose import Job
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import FsbenchError, Interrupted, UsageError, one_line, portable
from fsbench.reproduce.measure import measure_lacking
from fsbench.runs.directory import RunDirectory, RunIsBusy
from fsbench.training.attempt import Outcome as Trained
from fsbench.training.attempt import attempt, images_of, missing_images
from fsbench.training.stop_signal import StopSignal, at_once


@dataclass(frozen=True)
class Task:
    """One run to be trained, if it is not finished, and then measured."""

    directory: RunDirectory
    job: Job[TrainConfig]
    measuring: tuple[Job[SharpnessConfig], ...] = ()

    @property
    def data(self) -> tuple[str, str, str | None]:
        return images_of(self.job)

    def known(self) -> None:
        """There is something to do, or it would not be a task."""

    def perform(self, stop: StopSignal) -> Outcome:
        return perform(self, stop)

    def trained(self, outcome: Trained, stop: StopSignal) -> Outcome:
        """Measure what is missing, once the training ended so. Raises Interrupted."""
        return measured(self, outcome, stop)

    def failed(self, failure: FsbenchError) -> Outcome:
        return Outcome(self, f"{self.directory.path}: failed, {failure}", untrained=failure)


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
        return missing_images(self.untrained)

    @property
    def busy(self) -> bool:
        """Another process is at work on the run."""
        return isinstance(self.untrained, RunIsBusy)

    def __reduce__(self) -> tuple[Any, ...]:
        return Outcome, (self.task, self.line, portable(self.untrained), self.unmeasured)


def perform(task: Task, stop: StopSignal) -> Outcome:
    """Train and measure what is missing. Raises Interrupted."""
    try:
        trained = attempt(task.job, stop)
    except UsageError as failure:
        return task.failed(failure)
    return measured(task, trained, stop)


def measured(task: Task, trained: Trained, stop: StopSignal) -> Outcome:
    """Measure what is missing, once the training ended so. Raises Interrupted."""
    if isinstance(trained.failure, UsageError):
        return task.failed(trained.failure)
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
