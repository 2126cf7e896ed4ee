"""Measuring what a finished run lacks, in this process."""

from __future__ import annotations

from fsbench import __version__
from fsbench.config.compose import Job
from fsbench.config.sharpness import SharpnessConfig
from fsbench.errors import FsbenchError
from fsbench.measuring.measures import Measure, chosen_measures
from fsbench.measuring.record import Entry, Record, answers, kept_in
from fsbench.measuring.source import Source, find_source
from fsbench.runs.directory import RunDirectory
from fsbench.runs.records import read_measures


def lacking(job: Job[SharpnessConfig]) -> tuple[Source, Record, list[Measure]]:
    """The run, its record, and the measures that are not in it with the settings asked for.

    Raises:
        UsageError: the run is not finished, or can't be read.
    """
    source = find_source(job)
    record = Record(source)
    kept = record.kept()
    chosen = chosen_measures(job.config.measures)
    return source, record, [one for one in chosen if answers(one, job.config, kept, __version__) is None]


def answered(directory: RunDirectory, config: SharpnessConfig) -> list[tuple[Measure, dict[str, Entry] | None]]:
    """The answers of a run's record: each measure's entries by column, None where it was not measured as asked."""
    kept = kept_in(read_measures(directory.sharpness))
    return [(one, answers(one, config, kept, __version__)) for one in chosen_measures(config.measures)]


def measure_lacking(job: Job[SharpnessConfig]) -> tuple[int, dict[str, str]]:
    """Measure and record; returns how many measures were computed, and what went wrong, by measure.

    Raises:
        FsbenchError: the run or its images can't be used.
        KeyboardInterrupt: a signal came; what was measured until then is recorded.
    """
    source, record, measures = lacking(job)
    if not measures:
        return 0, {}
    from fsbench.measuring.measure import measure
    from fsbench.measuring.measures import Failed

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
