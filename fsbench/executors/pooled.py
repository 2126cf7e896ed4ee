"""Tasks side by side on the workers of an engine, Ray or SLURM; what is lost is tried again."""

from __future__ import annotations

import importlib
import os
import traceback
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any, Generic, Protocol

from fsbench.errors import FsbenchError, Interrupted, UsageError, one_line
from fsbench.executors.executor import Result, Task, wait_for_lock
from fsbench.lines import tell
from fsbench.runs.directory import RunDirectory
from fsbench.stop_signal import StopSignal, stop_signal

# Loader processes of a run that was killed hold its lock until they notice, which takes them about five seconds.
_PATIENCE = 30.0
# How often a run is come back to, behind all others, that another process is at work on; each waits half a minute.
_BUSY = 20
_GOES_ON = "interrupted; the same command goes on from here"


@dataclass(frozen=True)
class Submission(Generic[Result]):
    """A task on its way to a worker.

    Args:
        working_directory: where relative paths begin.
        threads: that it may compute with.
    """

    task: Task[Result]
    working_directory: str
    threads: int


@dataclass(frozen=True)
class Returned(Generic[Result]):
    """The answer of a worker: an outcome, or None where the task was told to stop.

    Args:
        progressed: whether a checkpoint was saved on the way.
    """

    outcome: Result | None
    progressed: bool = False


class PatientStopSignal(StopSignal):
    """A second signal changes nothing: several senders (terminal, engine, driver) may all mean the same stop."""

    def __call__(self, number: int, _: FrameType | None) -> None:
        self.requested = True


def carry_out(call: Submission[Result]) -> Returned[Result]:
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
    """The time of the last checkpoint, in ns; None where there is none."""
    try:
        return directory.checkpoint.stat().st_mtime_ns
    except FileNotFoundError:
        return None


class WorkerLost(FsbenchError):
    """The process or machine that carried out a call is gone: killed, out of memory, failed hardware."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """An engine that carries out calls elsewhere; it is started on entering and left behind as it was found.

    Args:
        room: how many calls it is to be given at once; None: all.
    """

    room: int | None

    def submit(self, calls: Sequence[Submission]) -> list[Hashable]:
        """Hand over calls; returns a handle for each. Raises UsageError where it does not take them."""
        ...

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """The calls among these that ended; waits so many seconds for the first."""
        ...

    def result(self, handle: Any) -> Returned:
        """The answer of an ended call.

        Raises:
            WorkerLost: nothing, and it may be tried again.
            FsbenchError: nothing, and it would be the same again.
        """
        ...

    def interrupt(self, handles: Sequence[Any]) -> None:
        """Tell calls to save a checkpoint and end; what has not begun does not begin."""
        ...

    def left(self, handles: Sequence[Any]) -> str | None:
        """The line for where an interrupted driver leaves calls to the engine; None: it is to stop them."""
        ...


def needed(package: str, executor: str) -> Any:
    """The engine's package. Raises UsageError where it is not installed."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as failure:
        if failure.name != package:
            raise
        problem = f"needs the package {package}: pip install 'fsbench[{executor}]'"
        raise UsageError("executor", executor, problem) from None


@dataclass(frozen=True)
class _Pending(Generic[Result]):
    """A task, how often it lost its worker, and how often another process was at work on its run."""

    task: Task[Result]
    lost: int = 0
    busy: int = 0


class PooledExecutor:
    """Tasks on the workers of an engine.

    Args:
        engine: Ray or SLURM.
        threads: of each task.
        retries: how often a task that lost its worker is tried again.
        tell: says what happens meanwhile; a line on stderr.
    """

    def __init__(
        self,
        engine: Engine,
        threads: int,
        retries: int,
        stop: StopSignal,
        tell: Callable[[str], None] = tell,
    ) -> None:
        self._engine, self._threads, self._retries, self._stop, self._tell = engine, threads, retries, stop, tell

    def run(self, tasks: Sequence[Task[Result]]) -> Iterator[Result]:
        waiting: deque[_Pending[Result]] = deque()
        for task in tasks:
            self._stop.check()
            if (outcome := task.known()) is not None:
                yield outcome
            else:
                waiting.append(_Pending(task))
        if waiting:
            yield from self._carried_out(waiting)

    def _carried_out(self, waiting: deque[_Pending[Result]]) -> Iterator[Result]:
        with self._engine as engine:
            running: dict[Any, _Pending[Result]] = {}
            try:
                while waiting or running:
                    if self._stop.requested:
                        if (said := engine.left([*running])) is not None:
                            running.clear()
                            raise Interrupted(said)
                        engine.interrupt([*running])
                        yield from self._last(running)
                        raise Interrupted(_GOES_ON)
                    room = len(waiting) if engine.room is None else engine.room - len(running)
                    if batch := [waiting.popleft() for _ in range(min(room, len(waiting)))]:
                        calls = [Submission(one.task, os.getcwd(), self._threads) for one in batch]
                        running |= zip(engine.submit(calls), batch, strict=True)
                    for handle in engine.ended([*running], 0.5):
                        ended = self._ended(handle, running.pop(handle))
                        if isinstance(ended, _Pending):
                            waiting.append(ended)
                        else:
                            yield ended
            finally:
                # Where whoever asked does not want the rest any more.
                engine.interrupt([*running])

    def _last(self, running: dict[Any, _Pending[Result]]) -> Iterator[Result]:
        """Yield the outcomes of calls that were told to stop and still finished."""
        while running:
            for handle in self._engine.ended([*running], 0.5):
                running.pop(handle)
                with suppress(FsbenchError):
                    if (outcome := self._engine.result(handle).outcome) is not None:
                        yield outcome

    def _ended(self, handle: Any, pending: _Pending[Result]) -> Result | _Pending[Result]:
        """The outcome of an ended call, or the task as it is to be tried again."""
        task = pending.task
        where = task.directory.path
        try:
            returned = self._engine.result(handle)
            if returned.outcome is not None:
                again = returned.outcome.busy and pending.busy < _BUSY
                return replace(pending, busy=pending.busy + 1) if again else returned.outcome
            if self._stop.requested:
                return pending
            if returned.progressed:
                # The end of a job's time, or a pre-emption: it got further, so this may be repeated.
                self._tell(f"{where}: stopped from outside; goes on from its checkpoint")
                return pending
            raise WorkerLost("stopped from outside before its first checkpoint")
        except WorkerLost as lost:
            if pending.lost < self._retries:
                self._tell(f"{where}: {one_line(lost)}; tried again ({pending.lost + 1} of {self._retries})")
                return replace(pending, lost=pending.lost + 1)
            times = f", {pending.lost + 1} times" if pending.lost else ""
            failure = FsbenchError(f"{one_line(lost)}{times}")
        except FsbenchError as wrong:
            failure = wrong
        with suppress(OSError, FsbenchError):
            if task.directory.path.is_dir() and not task.directory.finished:
                task.directory.set_status("failed", message=one_line(failure))
        return task.failed(failure)
