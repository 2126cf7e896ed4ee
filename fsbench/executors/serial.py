"""One task after the other, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fsbench.errors import UsageError
from fsbench.executors.executor import Outcome, Task
from fsbench.training.stop_signal import StopSignal


class SerialExecutor:
    """The executor where nothing else is asked for."""

    def __init__(self, stop: StopSignal) -> None:
        self._stop = stop

    def run(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        absent: dict[tuple[str, str, str | None], UsageError] = {}
        for task in tasks:
            self._stop.check()
            if task.data in absent:
                # It is not looked for, or downloaded, again for every run.
                yield task.failed(absent[task.data])
                continue
            outcome = task.perform(self._stop)
            if outcome.no_data:
                absent[task.data] = outcome.no_data
            yield outcome
