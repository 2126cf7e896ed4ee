"""A failure of one of several processes, as the others and the process that started them get to know it."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsbench.errors import Diverged, FsbenchError, Interrupted, UsageError, one_line
from fsbench.runs.directory import RunIsBusy

_EXPLAINED: dict[str, type[FsbenchError]] = {
    kind.__name__: kind for kind in (FsbenchError, UsageError, Diverged, Interrupted, RunIsBusy)
}


class DeviceFailed(RuntimeError):
    """Another device's process met an exception that explains nothing; `traceback` is that of it."""

    traceback = ""


def told(failure: BaseException, rank: int = 0) -> dict[str, Any]:
    """A failure as plain data, for another process."""
    kind = type(failure).__name__
    if isinstance(failure, UsageError):
        kind = "UsageError"
        arguments = [failure.key, str(failure.value), failure.problem]
    elif isinstance(failure, KeyboardInterrupt):
        kind, arguments = "Interrupted", ["interrupted"]
    elif kind in _EXPLAINED:
        arguments = [str(failure)]
    else:
        arguments = [f"device {rank}: {one_line(failure)}"]
    return {"kind": kind, "arguments": arguments, "traceback": "".join(traceback.format_exception(failure))}


def retold(record: dict[str, Any]) -> Exception:
    """The failure that `told` wrote down."""
    if record["kind"] in _EXPLAINED:
        return _EXPLAINED[record["kind"]](*record["arguments"])
    failure = DeviceFailed(*record["arguments"])
    failure.traceback = record["traceback"]
    return failure


@contextmanager
def recorded_failure(place: Path) -> Iterator[list[int]]:
    """Yields a list that holds the exit code in the end; the first process to fail says in `place` why."""
    ended = [0]
    try:
        yield ended
    except BaseException as failure:
        with suppress(OSError), (place / "failure.json").open("x", encoding="utf-8") as file:
            json.dump(told(failure, int(os.environ["RANK"])), file)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        ended[0] = getattr(failure, "exit_code", 1)
