"""One run of an artefact."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fsbench.config.compose import Composer, Job
from fsbench.config.train import TrainConfig
from fsbench.reproduce.cells import Cell
from fsbench.runs.directory import RunDirectory


@dataclass(frozen=True)
class PlannedRun:
    """A cell and a seed.

    Args:
        waits: why it can't be run yet, where a value is still to be chosen; the configuration then has the default.
    """

    cell: Cell
    seed: int
    job: Job[TrainConfig]
    directory: RunDirectory
    waits: str | None = None

    @property
    def finished(self) -> bool:
        return self.waits is None and self.directory.finished


def planned_run(cell: Cell, seed: int, line: Sequence[str], composer: Composer, waits: str | None = None) -> PlannedRun:
    """The run of a command line. Raises UsageError for whatever does not compose or check."""
    job = composer.job([*line, f"seed={seed}"])
    return PlannedRun(cell, seed, job, RunDirectory.of(job.config.model_dump(mode="json"), job.choices), waits)
