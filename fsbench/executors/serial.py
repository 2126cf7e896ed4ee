"""One task after the other, in this process; last those whose runs another process is at work on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fsbench.errors import UsageError
from fsbench.executors.executor import Outcome, Task
from fsbench.executors.worker import wait_for_lock
from fsbench.lines import tell
from fsbench.training.stop_signal import StopSignal

# Seconds to wait for each run that another process is at work on.
_PATIENCE = 600.0


class SerialExecutor:
    """The executor where nothing else is asked for."""

    def __init__(self, stop: StopSignal, tell: Callable[[str], None] = tell) -> None:
        self._stop, self._tell = stop, tell

    def run(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        busy: list[Task[Outcome]] = []
        absent: dict[tuple[str, str, str | None], UsageError] = {}
        for task in tasks:
            self._stop.check()
            if task.data in absent:
                # It is not looked for, or downloaded, again for every run.
                yield task.failed(absent[task.data])
                continue
            outcome = task.perform(self._stop)
            if outcome.busy:
                busy.append(task)
                continue
            if outcome.no_data:
                absent[task.data] = outcome.no_data
            yield outcome
        for task in busy:
            self._tell(f"{task.directory.path}: another process is at work on it, which is waited for")
            wait_for_lock(task.directory, self._stop, _PATIENCE)
            self._stop.check()
            yield task.perform(self._stop)
