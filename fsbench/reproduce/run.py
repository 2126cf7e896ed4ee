"""What is missing for the artefacts asked for: a task for each run, which trains and measures it, and how it ended."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from dataclasses import dataclass

from fsbench import __version__
from fsbench.config.compose import Job
from fsbench.config.sharpness import SharpnessConfig
from fsbench.config.train import TrainConfig
from fsbench.errors import FsbenchError, Interrupted, UsageError, one_line, traceback_wanted
from fsbench.measuring.measures import Measure, chosen_measures
from fsbench.measuring.record import Record, answers
from fsbench.measuring.source import Source, find_source
from fsbench.reproduce.cells import PlannedRun
from fsbench.reproduce.plan import Plan, deciding, runs_by_directory
from fsbench.runs.directory import RunDirectory
from fsbench.stop_signal import StopSignal, at_once
from fsbench.training.outcome import Outcome, images_of, train_if_missing


@dataclass(frozen=True)
class RunOutcome:
    """The end of a task.

    Args:
        line: for a reader.
        trained: how the training ended.
        unmeasured: why a measure is missing, by its name.
    """

    task: RunTask
    line: str
    trained: Outcome
    unmeasured: tuple[tuple[str, str], ...] = ()

    @property
    def reason(self) -> str:
        """The failures, in a line; empty where there are none."""
        if self.trained.failure is not None:
            return one_line(self.trained.failure)
        return "; ".join(f"{name}: {what}" for name, what in self.unmeasured)

    @property
    def no_data(self) -> UsageError | None:
        """The fault of the images, if it failed of that."""
        return self.trained.no_data

    @property
    def busy(self) -> bool:
        """Another process is at work on the run."""
        return self.trained.busy


@dataclass(frozen=True)
class RunTask:
    """One run to be trained, if it is not finished, and then measured."""

    directory: RunDirectory
    job: Job[TrainConfig]
    measuring: tuple[Job[SharpnessConfig], ...] = ()

    @property
    def data(self) -> tuple[str, str, str | None]:
        return images_of(self.job)

    def known(self) -> None:
        """There is something to do, or it would not be a task."""

    def perform(self, stop: StopSignal) -> RunOutcome:
        """Train and measure what is missing. Raises Interrupted."""
        try:
            trained = train_if_missing(self.job, stop)
        except UsageError as failure:
            return self.failed(failure)
        return self.trained(trained, stop)

    def trained(self, outcome: Outcome, stop: StopSignal) -> RunOutcome:
        """Measure what is missing, once the training ended so. Raises Interrupted."""
        if outcome.failure is not None:
            return RunOutcome(self, outcome.line, outcome)
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
        return RunOutcome(self, line, outcome, tuple(unmeasured.items()))

    def failed(self, failure: FsbenchError) -> RunOutcome:
        line = f"{self.directory.path}: failed, {failure}"
        return RunOutcome(self, line, Outcome("failed", line, failure))

    def _measured(self, job: Job[SharpnessConfig]) -> tuple[int, dict[str, str]]:
        try:
            return _measure(job)
        except KeyboardInterrupt:
            raise Interrupted(f"{self.directory.path}: interrupted; the same command goes on from here") from None
        except Interrupted:
            raise
        except Exception as failure:
            if traceback_wanted():
                traceback.print_exc()
            return 0, dict.fromkeys(job.config.measures or (), one_line(failure))


def missing_tasks(plans: Sequence[Plan]) -> list[RunTask]:
    """A task for each run that is not finished, or was not measured as an artefact asks; a shared run is there once."""
    # What decides comes first: other runs wait for it. That a candidate diverges is an answer too.
    candidates = deciding(plans).values()
    tasks = [RunTask(run.directory, run.job) for run in candidates if not run.finished and not run.diverged]
    for shared in runs_by_directory(plans).values():
        (_, run), *_ = shared
        measuring = {}
        for plan, planned in shared:
            if (job := plan.measuring(planned)) is not None and not (run.finished and is_measured(plan, planned)):
                measuring[job.config.model_dump_json()] = job
        if not run.finished or measuring:
            tasks.append(RunTask(run.directory, run.job, tuple(measuring.values())))
    return tasks


def is_measured(plan: Plan, run: PlannedRun) -> bool:
    """True if all that is asked was measured; False where that can't be told."""
    if (job := plan.measuring(run)) is None:
        return True
    try:
        return not _lacking(job)[2]
    except FsbenchError:
        return False


def _lacking(job: Job[SharpnessConfig]) -> tuple[Source, Record, list[Measure]]:
    """The run, its record, and the measures that are not in it with the settings asked for.

    Raises:
        UsageError: the run is not finished, or can't be read.
    """
    source = find_source(job)
    record = Record(source)
    kept = record.kept()
    chosen = chosen_measures(job.config.measures)
    return source, record, [one for one in chosen if answers(one, job.config, kept, __version__) is None]


def _measure(job: Job[SharpnessConfig]) -> tuple[int, dict[str, str]]:
    """Measure and record; returns how many measures were computed, and what went wrong, by measure.

    Raises:
        FsbenchError: the run or its images can't be used.
        KeyboardInterrupt: a signal came; what was measured until then is recorded.
    """
    source, record, measures = _lacking(job)
    if not measures:
        return 0, {}
    from fsbench.measuring.measures import Failed
    from fsbench.measuring.processes import measure

    failed: dict[str, str] = {}
    done = 0
    try:
        for found in measure(source, job.config, measures, record):
            if isinstance(found, Failed):
                failed[found.measure.name] = found.reason
            else:
                done += 1
    except MemoryError as failure:
        raise FsbenchError(f"{source.title}: not enough memory to measure, {failure}") from failure
    return done, failed
