"""What is missing for the artefacts asked for."""

from __future__ import annotations

from collections.abc import Sequence

from fsbench.errors import FsbenchError
from fsbench.reproduce.choices import diverged
from fsbench.reproduce.executor import Task
from fsbench.reproduce.measure import lacking
from fsbench.reproduce.plan import Plan, deciding, distinct
from fsbench.reproduce.planned_run import PlannedRun


def missing_tasks(plans: Sequence[Plan]) -> list[Task]:
    """A task for each run that is not finished, or was not measured as an artefact asks; a shared run is there once."""
    # What decides comes first: other runs wait for it. That a candidate diverges is an answer too.
    tasks = [Task(run.directory, run.job) for run in deciding(plans).values() if _open(run)]
    for shared in distinct(plans).values():
        (_, run), *_ = shared
        measuring = {}
        for plan, planned in shared:
            if (job := plan.measuring(planned)) is not None and not (trained(run) and is_measured(plan, planned)):
                measuring[job.config.model_dump_json()] = job
        if not trained(run) or measuring:
            tasks.append(Task(run.directory, run.job, tuple(measuring.values())))
    return tasks


def _open(candidate: PlannedRun) -> bool:
    return not trained(candidate) and not diverged(candidate)


def trained(run: PlannedRun) -> bool:
    return run.finished


def is_measured(plan: Plan, run: PlannedRun) -> bool:
    """Whether all that is asked was measured; False where that can't be told."""
    if (job := plan.measuring(run)) is None:
        return True
    try:
        return not lacking(job)[2]
    except FsbenchError:
        return False
