"""Carrying out what is missing for the artefacts asked for: a task for an executor for each run, and how it ended."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from os import environ
from typing import Any

from fsbench.config.compose import Job
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import FsbenchError, Interrupted, UsageError, one_line, portable
from fsbench.reproduce.measure import lacking, measure_lacking
from fsbench.reproduce.plan import Plan, PlannedRun, deciding, distinct
from fsbench.runs.directory import RunDirectory, RunIsBusy
from fsbench.stop_signal import StopSignal, at_once
from fsbench.training.outcome import Outcome as Trained
from fsbench.training.outcome import images_of, missing_images, train_if_missing


@dataclass(frozen=True)
class Outcome:
    """The end of a task: a line for a reader, and what failed, if anything did.

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
        """The failures, in a line; empty where there are none."""
        if self.untrained is not None:
            return one_line(self.untrained)
        return "; ".join(f"{name}: {what}" for name, what in self.unmeasured)

    @property
    def no_data(self) -> UsageError | None:
        """The fault of the images, if it failed of that."""
        return missing_images(self.untrained)

    @property
    def busy(self) -> bool:
        """Another process is at work on the run."""
        return isinstance(self.untrained, RunIsBusy)

    def __reduce__(self) -> tuple[Any, ...]:
        return Outcome, (self.task, self.line, portable(self.untrained), self.unmeasured)


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
        """Train and measure what is missing. Raises Interrupted."""
        try:
            trained = train_if_missing(self.job, stop)
        except UsageError as failure:
            return self.failed(failure)
        return self.trained(trained, stop)

    def trained(self, outcome: Trained, stop: StopSignal) -> Outcome:
        """Measure what is missing, once the training ended so. Raises Interrupted."""
        if isinstance(outcome.failure, UsageError):
            return self.failed(outcome.failure)
        if outcome.failure is not None:
            return Outcome(self, outcome.line, untrained=outcome.failure)
        computed = 0
        unmeasured: dict[str, str] = {}
        for job in self.measuring:
            stop.check()
            with at_once():
                done, failed = self._measured(job)
            computed += done
            unmeasured |= failed
        line = outcome.line + (f", {computed} measure{'s' * (computed > 1)}" if computed else "")
        line += "".join(f"; {name} failed, {reason}" for name, reason in unmeasured.items())
        return Outcome(self, line, unmeasured=tuple(unmeasured.items()))

    def failed(self, failure: FsbenchError) -> Outcome:
        return Outcome(self, f"{self.directory.path}: failed, {failure}", untrained=failure)

    def _measured(self, job: Job[SharpnessConfig]) -> tuple[int, dict[str, str]]:
        try:
            return measure_lacking(job)
        except KeyboardInterrupt:
            raise Interrupted(f"{self.directory.path}: interrupted; the same command goes on from here") from None
        except Interrupted:
            raise
        except Exception as failure:
            if environ.get("HYDRA_FULL_ERROR") == "1":
                traceback.print_exc()
            return 0, dict.fromkeys(job.config.measures or (), one_line(failure))


def missing_tasks(plans: Sequence[Plan]) -> list[Task]:
    """A task for each run that is not finished, or was not measured as an artefact asks; a shared run is there once."""
    # What decides comes first: other runs wait for it. That a candidate diverges is an answer too.
    candidates = deciding(plans).values()
    tasks = [Task(run.directory, run.job) for run in candidates if not run.finished and not run.diverged]
    for shared in distinct(plans).values():
        (_, run), *_ = shared
        measuring = {}
        for plan, planned in shared:
            if (job := plan.measuring(planned)) is not None and not (run.finished and is_measured(plan, planned)):
                measuring[job.config.model_dump_json()] = job
        if not run.finished or measuring:
            tasks.append(Task(run.directory, run.job, tuple(measuring.values())))
    return tasks


def is_measured(plan: Plan, run: PlannedRun) -> bool:
    """True if all that is asked was measured; False where that can't be told."""
    if (job := plan.measuring(run)) is None:
        return True
    try:
        return not lacking(job)[2]
    except FsbenchError:
        return False
