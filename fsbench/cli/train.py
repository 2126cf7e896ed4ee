"""`fsbench train`: one run, or a sweep."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbench.cli.flags import parse_train
from fsbench.cli.train_help import HELP
from fsbench.config.compose import Job, compose_jobs, compose_text
from fsbench.errors import FsbenchError, Interrupted, first_line
from fsbench.runs.directory import RunDirectory


def main(arguments: Sequence[str]) -> int:
    options = parse_train(arguments)
    if options.help:
        print(HELP + compose_text(options.overrides, config_dir=options.config_dir), end="")
        return 0
    if options.hydra_help or options.cfg or options.info is not None:
        from fsbench.cli.show import show

        return show(options)
    jobs = compose_jobs(options.overrides, multirun=options.multirun, config_dir=options.config_dir)
    return sweep(jobs) if options.multirun else single(jobs[0])


def single(job: Job) -> int:
    """Train one run and say what came out on stdout."""
    directory, results = finished(job)
    if results is not None:
        print(f"{directory.path}: already done, {described(results)} (overwrite=true trains it again)")
        return 0
    try:
        print(f"{directory.path}: done, {described(run(job))}")
    except FsbenchError:
        raise
    except Exception as failure:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise FsbenchError(failed_line(directory, failure)) from failure
    return 0


def failed_line(directory: RunDirectory, failure: Exception) -> str:
    where = f"; the traceback is in {directory.traceback}" if directory.traceback.is_file() else ""
    return f"{directory.path}: failed, {type(failure).__name__}: {first_line(failure)}{where}"


def finished(job: Job) -> tuple[RunDirectory, dict[str, Any] | None]:
    """The job's directory, and its results if it is finished and not to be overwritten. Needs no torch."""
    config = job.config.model_dump(mode="json")
    directory = RunDirectory.of(config, job.choices)
    if job.config.overwrite:
        return directory, None
    directory.refuse_other_config(config)
    return directory, directory.read_summary()["results"] if directory.finished else None


def run(job: Job) -> dict[str, Any]:
    from fsbench.training.run import train

    return train(job)


def described(results: dict[str, Any]) -> str:
    return (
        f"test accuracy {100 * results['test_accuracy']:.2f} % "
        f"(train {100 * results['train_accuracy']:.2f} %), {results['seconds']:.1f} s"
    )


@dataclass(frozen=True)
class Outcome:
    """How one run of a sweep ended: `done`, `skipped` (was done before) or `failed`."""

    directory: Path
    status: str
    line: str


def sweep(jobs: list[Job]) -> int:
    """Train all that is missing, one after the other; a failed run does not stop the others.

    Returns 0, or 3 if any run failed.
    """
    outcomes: list[Outcome] = []
    unique = {str(finished(job)[0].path): job for job in jobs}
    for number, job in enumerate(unique.values(), 1):
        outcomes.append(_attempt(job))
        print(f"[{number}/{len(unique)}] {outcomes[-1].line}", flush=True)
    counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
    print(", ".join(f"{count} {status}" for status, count in counts.items()))
    if not counts["failed"]:
        return 0
    print(f"fsbench: {counts['failed']} of {len(unique)} runs failed; the same command runs what is missing",
          file=sys.stderr)  # fmt: skip
    return 3


def _attempt(job: Job) -> Outcome:
    directory, results = finished(job)
    if results is not None:
        return Outcome(directory.path, "skipped", f"{directory.path}: already done, {described(results)}")
    try:
        return Outcome(directory.path, "done", f"{directory.path}: done, {described(run(job))}")
    except Interrupted:
        raise
    except FsbenchError as failure:
        line = f"{directory.path}: failed, {failure}"
    # A run must not end the sweep, not even by SystemExit.
    except (Exception, SystemExit) as failure:
        line = failed_line(directory, failure)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
    return Outcome(directory.path, "failed", line)
