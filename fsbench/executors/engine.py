"""What Ray and SLURM have in common: calls go in, and come back or are lost."""

from __future__ import annotations

import importlib
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from fsbench.errors import FsbenchError, UsageError
from fsbench.executors.worker import Call, Returned


class WorkerLost(FsbenchError):
    """The process or machine that carried out a call is gone: killed, out of memory, failed hardware."""


class Engine(AbstractContextManager["Engine"], Protocol):
    """An engine that carries out calls elsewhere; it is started on entering and left behind as it was found.

    Args:
        room: how many calls it is to be given at once; None: all.
    """

    room: int | None

    def submit(self, calls: Sequence[Call]) -> list[Hashable]:
        """Hand over calls; returns a handle for each. Raises UsageError where it does not take them."""
        ...

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        """Those that ended; waits so long for the first of them."""
        ...

    def result(self, handle: Any) -> Returned:
        """What an ended call gave.

        Raises:
            WorkerLost: nothing, and it may be tried again.
            FsbenchError: nothing, and it would be the same again.
        """
        ...

    def interrupt(self, handles: Sequence[Any]) -> None:
        """Tell calls to save a checkpoint and end; what has not begun does not begin."""
        ...

    def left(self, handles: Sequence[Any]) -> str | None:
        """What is said where an interrupted driver leaves calls to the engine; None: it is to stop them."""
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
