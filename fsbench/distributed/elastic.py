"""Starting several processes on this machine, one for each device, by torch's elastic launcher."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fsbench.distributed.failures import DeviceFailed, retold
from fsbench.stop_signal import stopping

# With this process's modules, wherever it found them.
# A launcher that ends, by whatever, leaves none of them behind: the kernel signals its end (Linux), PR_SET_PDEATHSIG.
_WORKER = """import ctypes, importlib, json, os, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
if os.getppid() != int(sys.argv[4]):
    sys.exit(1)
sys.path[:] = json.loads(sys.argv[1])
sys.exit(importlib.import_module(sys.argv[2]).main(sys.argv[3]))"""
_PATIENCE = 120  # seconds to write a checkpoint in, after a signal


def start(count: int, module: str, place: str) -> None:
    """Run `main(place)` of a module in `count` processes, and wait for them.

    The first to fail says why in `place`, by `failures.recorded_failure`.

    Raises:
        SignalException: a signal came; it was passed on to them.
        DeviceFailed: a process met an exception that explains nothing, or was killed; else what it raised.
    """
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=count,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=DefaultLogsSpecs(log_dir=place),
        signals_to_handle=",".join(signal.Signals(number).name for number in _passed_on()),
        shutdown_timeout=_PATIENCE,
    )
    try:
        with _launching():
            # -P: no module of the working directory, which may be anybody's, comes before Python's own.
            arguments = (json.dumps(sys.path), module, place, str(os.getpid()))
            elastic_launch(config, sys.executable)("-P", "-c", _WORKER, *arguments)
    except ChildFailedError as failed:
        rank, first = failed.get_first_failure()
        told = why(place)
        # What the others met is a consequence of that.
        killed = first.exitcode < 0 and first.exitcode != -signal.SIGTERM
        if told is None or killed:
            how = f"was killed by signal {-first.exitcode}" if killed else f"ended with exit code {first.exitcode}"
            raise DeviceFailed(f"device {rank}: the process {how}") from None
        raise told from None


def why(place: str) -> Exception | None:
    """The failure that the first process to fail wrote down, if it could."""
    try:
        return retold(json.loads(Path(place, "failure.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return None


def _passed_on() -> list[int]:
    return [*stopping(), signal.SIGQUIT]


@contextmanager
def _launching() -> Iterator[None]:
    """The launcher keeps quiet, and leaves signal handlers and environment as they were."""
    numbers = _passed_on()
    level, handlers, environment = logging.root.manager.disable, list(map(signal.getsignal, numbers)), dict(os.environ)
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(level)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
