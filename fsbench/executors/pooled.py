"""Tasks side by side on an engine: what is lost is tried again, and a stop leaves checkpoints."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Generic

from fsbench.errors import FsbenchError, Interrupted, one_line
from fsbench.executors.engine import Engine, WorkerLost
from fsbench.executors.executor import Outcome, Task
from fsbench.executors.worker import Call
from fsbench.lines import tell
from fsbench.training.stop_signal import StopSignal

# How often a run is come back to, behind all others, that another process is at work on; each waits half a minute.
_BUSY = 20
_GOES_ON = "interrupted; the same command goes on from here"


@dataclass(frozen=True)
class _Attempt(Generic[Outcome]):
    """A task, how often it lost its worker, and how often another process was at work on its run."""

    task: Task[Outcome]
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

    def run(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        waiting: deque[_Attempt[Outcome]] = deque()
        for task in tasks:
            self._stop.check()
            if (outcome := task.known()) is not None:
                yield outcome
            else:
                waiting.append(_Attempt(task))
        if waiting:
            yield from self._carried_out(waiting)

    def _carried_out(self, waiting: deque[_Attempt[Outcome]]) -> Iterator[Outcome]:
        with self._engine as engine:
            running: dict[Any, _Attempt[Outcome]] = {}
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
                        running |= zip(engine.submit([self._call(one) for one in batch]), batch, strict=True)
                    for handle in engine.ended([*running], 0.5):
                        outcome, again = self._outcome(handle, running.pop(handle))
                        if again is not None:
                            waiting.append(again)
                        if outcome is not None:
                            yield outcome
            finally:
                # Where whoever asked does not want the rest any more.
                engine.interrupt([*running])

    def _call(self, attempt: _Attempt[Outcome]) -> Call[Outcome]:
        return Call(attempt.task, os.getcwd(), self._threads)

    def _last(self, running: dict[Any, _Attempt[Outcome]]) -> Iterator[Outcome]:
        """What still finished of that which was told to stop."""
        while running:
            for handle in self._engine.ended([*running], 0.5):
                running.pop(handle)
                with suppress(FsbenchError):
                    if (outcome := self._engine.result(handle).outcome) is not None:
                        yield outcome

    def _outcome(self, handle: Any, attempt: _Attempt[Outcome]) -> tuple[Outcome | None, _Attempt[Outcome] | None]:
        """How a call ended, or the attempt that is to follow it."""
        task = attempt.task
        where = task.directory.path
        try:
            returned = self._engine.result(handle)
            if returned.outcome is not None and returned.outcome.busy and attempt.busy < _BUSY:
                return None, replace(attempt, busy=attempt.busy + 1)
            if returned.outcome is not None:
                return returned.outcome, None
            if self._stop.requested:
                return None, attempt
            if returned.progressed:
                # The end of a job's time, or a pre-emption: it got further, so this may be repeated.
                self._tell(f"{where}: stopped from outside; goes on from its checkpoint")
                return None, attempt
            raise WorkerLost("stopped from outside before its first checkpoint")
        except WorkerLost as lost:
            if attempt.lost < self._retries:
                self._tell(f"{where}: {one_line(lost)}; tried again ({attempt.lost + 1} of {self._retries})")
                return None, replace(attempt, lost=attempt.lost + 1)
            times = f", {attempt.lost + 1} times" if attempt.lost else ""
            failure = FsbenchError(f"{one_line(lost)}{times}")
        except FsbenchError as wrong:
            failure = wrong
        with suppress(OSError, FsbenchError):
            if task.directory.path.is_dir() and not task.directory.finished:
                task.directory.set_status("failed", message=one_line(failure))
        return task.failed(failure), None
