"""The runs of a sweep that go together in one process, and the others one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from fsbench.errors import FsbenchError
from fsbench.executors.executor import Outcome, Task
from fsbench.executors.serial import SerialExecutor
from fsbench.lines import tell
from fsbench.training.attempt import finished
from fsbench.training.population_plan import populations
from fsbench.training.stop_signal import StopSignal


class PopulationExecutor:
    """Trains as populations what asks for it by `trainer.population=true` and can be; the rest as `SerialExecutor`.

    Args:
        tell: is told, in a line, of runs that ask for it and can't be.
    """

    def __init__(self, stop: StopSignal, tell: Callable[[str], None] = tell) -> None:
        self._stop, self._tell = stop, tell

    def run(self, tasks: Sequence[Task[Outcome]]) -> Iterator[Outcome]:
        missing = [task for task in tasks if _missing(task)]
        groups, alone = populations([task.job for task in missing])
        for reason in dict.fromkeys(alone.values()):
            count = list(alone.values()).count(reason)
            self._tell(f"{count} run{'s' * (count > 1)} trained alone: {reason}")
        members = {id(missing[number]) for group in groups for number in group}
        busy: list[Task[Outcome]] = []
        for group in groups:
            from fsbench.training.population import train_population

            self._stop.check()
            for number, outcome in train_population([missing[number].job for number in group], self._stop):
                if outcome.busy:
                    busy.append(missing[group[number]])
                else:
                    yield missing[group[number]].trained(outcome, self._stop)
        yield from SerialExecutor(self._stop).run([task for task in tasks if id(task) not in members] + busy)


def _missing(task: Task[Outcome]) -> bool:
    try:
        return task.job.config.trainer.population and finished(task.job)[1] is None
    except FsbenchError:
        return False
