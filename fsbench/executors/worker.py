"""What happens in a worker: one task, with its threads, ending at a signal with a checkpoint."""

from __future__ import annotations

import os
import time
import traceback
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType
from typing import Generic

from fsbench.errors import FsbenchError, Interrupted, one_line
from fsbench.executors.executor import Outcome, Task
from fsbench.runs.directory import RunDirectory, RunIsBusy
from fsbench.training.stop_signal import StopSignal, stop_signal

# Loader processes of a run that was killed hold its lock until they notice, which takes them about five seconds.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Call(Generic[Outcome]):
    """A task on its way to a worker.

    Args:
        working_directory: where relative paths begin.
        threads: that it may compute with.
    """

    task: Task[Outcome]
    working_directory: str
    threads: int


@dataclass(frozen=True)
class Returned(Generic[Outcome]):
    """What comes back: an outcome, or None where the task was told to stop.

    Args:
        progressed: whether a checkpoint was saved on the way.
    """

    outcome: Outcome | None
    progressed: bool = False


class PatientStopSignal(StopSignal):
    """A second signal changes nothing: several senders (terminal, engine, driver) may all mean the same stop."""

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.requested = True


def carry_out(call: Call[Outcome]) -> Returned[Outcome]:
    """Do a task. Called in a process of its own, which has not imported torch yet or has the same number of threads."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(call.threads)
    task = call.task
    try:
        os.chdir(call.working_directory)
    except OSError as failure:
        reason = f"{call.working_directory} can't be entered on the worker, {failure.strerror}; directories are shared"
        return Returned(task.failed(FsbenchError(reason)))
    before = _saved(task.directory)
    with stop_signal(PatientStopSignal()) as stop:
        try:
            wait_for_lock(task.directory, stop, _PATIENCE)
            return Returned(task.perform(stop))
        except (Interrupted, KeyboardInterrupt):
            return Returned(None, _saved(task.directory) not in (None, before))
        except Exception as failure:
            traceback.print_exc()
            return Returned(task.failed(FsbenchError(one_line(failure))))


def _saved(directory: RunDirectory) -> int | None:
    """When the last checkpoint was saved."""
    try:
        return directory.checkpoint.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def wait_for_lock(directory: RunDirectory, stop: StopSignal, patience: float) -> None:
    """Wait until nobody holds the run, so many seconds at most, or until a signal comes."""
    until = time.monotonic() + patience
    while directory.path.is_dir() and time.monotonic() < until and not stop.requested:
        with suppress(RunIsBusy), directory.locked(patience=0.0):
            return
        time.sleep(0.2)
