"""`fsbench train`: one run, or a sweep."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsbench.cli.flags import parse_composed
from fsbench.cli.train_help import HELP
from fsbench.config.compose import Job, compose_jobs, compose_text
from fsbench.errors import FsbenchError, Interrupted, UsageError, first_line
from fsbench.runs.directory import RunDirectory
from fsbench.training.stop_signal import StopSignal, stop_signal


def main(arguments: Sequence[str]) -> int:
    options = parse_composed("fsbench train", arguments)
    if options.help:
        print(HELP + compose_text(options.overrides, config_dir=options.config_dir), end="")
        return 0
    if options.hydra_help or options.cfg or options.info is not None:
        from fsbench.cli.show import show

        return show(options)
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UsageError("WORLD_SIZE", os.environ["WORLD_SIZE"], "a run is trained by one process so far")
    with stop_signal() as stop:
        jobs = compose_jobs(options.overrides, multirun=options.multirun, config_dir=options.config_dir)
        return sweep(jobs, stop) if options.multirun else single(jobs[0], stop)


def say(line: str) -> None:
    """Print a result; a reader that went away (`| head`) does not stop the training."""
    try:
        print(line, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def single(job: Job, stop: StopSignal) -> int:
    """Train one run and say what came out on stdout."""
    directory, results = finished(job)
    if results is not None:
        say(f"{directory.path}: already done, {described(results)} (overwrite=true trains it again)")
        return 0
    try:
        say(f"{directory.path}: done, {described(run(job, stop))}")
    except FsbenchError:
        raise
    except Exception as failure:
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        raise FsbenchError(failed_line(directory, failure)) from failure
    return 0


def failed_line(directory: RunDirectory, failure: BaseException) -> str:
    where = f"; the traceback is in {directory.traceback}" if directory.traceback.is_file() else ""
    return f"{directory.path}: failed, {type(failure).__name__}: {first_line(failure)}{where}"


def finished(job: Job) -> tuple[RunDirectory, dict[str, Any] | None]:
    """The job's directory, and its results if it is finished and not to be overwritten. Needs no torch."""
    config = job.config.model_dump(mode="json")
    directory = RunDirectory.of(config, job.choices)
    directory.refuse_other_config(config, overwrite=job.config.overwrite)
    if job.config.overwrite or not directory.finished:
        return directory, None
    return directory, directory.read_results()


def run(job: Job, stop: StopSignal) -> dict[str, Any]:
    stop.check()
    from fsbench.training.run import train

    return train(job, stop)


def described(results: dict[str, Any]) -> str:
    return (
        f"test accuracy {100 * results['test_accuracy']:.2f} % "
        f"(train {100 * results['train_accuracy']:.2f} %), {results['seconds']:.1f} s"
    )


@dataclass(frozen=True)
class Outcome:
    """How one run of a sweep ended: `done`, `skipped` (was done before) or `failed`."""

    status: str
    line: str


def sweep(jobs: list[Job], stop: StopSignal) -> int:
    """Train all that is missing, one after the other; a failed run does not stop the others.

    Returns 0, or 3 if any run failed.
    """
    unique = distinct(jobs)
    outcomes: list[Outcome] = []
    try:
        for job in unique:
            stop.check()
            outcomes.append(_attempt(job, stop))
            say(f"[{len(outcomes)}/{len(unique)}] {outcomes[-1].line}")
    finally:
        counts = {status: sum(o.status == status for o in outcomes) for status in ("done", "skipped", "failed")}
        missing = f", {len(unique) - len(outcomes)} not begun or interrupted" if len(outcomes) < len(unique) else ""
        say(", ".join(f"{count} {status}" for status, count in counts.items()) + missing)
    if not counts["failed"]:
        return 0
    print(f"fsbench: {counts['failed']} of {len(unique)} runs failed; the same command runs what is missing",
          file=sys.stderr)  # fmt: skip
    return 3


def distinct(jobs: list[Job]) -> list[Job]:
    """Jobs without repetitions. Raises UsageError where different runs would share one directory."""
    unique: dict[Path, Job] = {}
    for job in jobs:
        path = finished(job)[0].path
        if path in unique and unique[path].config != job.config:
            raise UsageError("run_name", job.config.run_name, "several runs of the sweep would share this directory")
        unique[path] = job
    return list(unique.values())


def _attempt(job: Job, stop: StopSignal) -> Outcome:
    directory, results = finished(job)
    if results is not None:
        return Outcome("skipped", f"{directory.path}: already done, {described(results)}")
    try:
        return Outcome("done", f"{directory.path}: done, {described(run(job, stop))}")
    except Interrupted:
        raise
    except FsbenchError as failure:
        line = f"{directory.path}: failed, {failure}"
    # A run must not end the sweep, not even by SystemExit.
    except (Exception, SystemExit) as failure:
        line = failed_line(directory, failure)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            traceback.print_exc()
    return Outcome("failed", line)
