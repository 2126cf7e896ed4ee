"""Starting the processes of a run on several devices of this machine, by torch's elastic launcher."""

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
from tempfile import TemporaryDirectory
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from fsbench.config.compose import Job
from fsbench.errors import Interrupted
from fsbench.runs.atomic import write_text
from fsbench.runs.directory import RunDirectory
from fsbench.training.devices import DeviceFailed, refuse_absent, retold
from fsbench.training.stop_signal import StopSignal

_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR2", "SIGHUP", "SIGQUIT")
# With this process's modules, wherever it found them.
_WORKER = """import json, sys
sys.path[:] = json.loads(sys.argv[1])
from fsbench.training.worker import main
sys.exit(main(sys.argv[2]))"""
_PATIENCE = 120  # seconds to write a checkpoint in, after a signal


def launch(job: Job, stop: StopSignal) -> dict[str, Any]:
    """Train a run in `trainer.devices` processes; returns its results.

    A signal is passed on to them: they leave a checkpoint.

    Raises:
        UsageError: there are too few GPUs.
        DeviceFailed: a process ended by an exception that explains nothing, or was killed; else what it raised.
    """
    options = job.config
    refuse_absent(options.trainer)
    directory = RunDirectory.of(options.model_dump(mode="json"), job.choices)
    with TemporaryDirectory(prefix="fsbench-") as place:
        handed = {"config": options.model_dump(mode="json"), "choices": job.choices, "overrides": list(job.overrides)}
        Path(place, "job.json").write_text(json.dumps(handed), encoding="utf-8")
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=options.trainer.devices,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=place),
            signals_to_handle=",".join(_SIGNALS),
            shutdown_timeout=_PATIENCE,
        )
        try:
            with _launching():
                elastic_launch(config, sys.executable)("-c", _WORKER, json.dumps(sys.path), place)
        except ChildFailedError as failed:
            raise _failure(Path(place), directory, failed) from None
        except SignalException:
            stop.requested = True
            if not directory.finished:
                raise _failure(Path(place), directory, None) from None
    return directory.read_results()


def _failure(place: Path, directory: RunDirectory, failed: ChildFailedError | None) -> Exception:
    """What the first process to fail wrote down, or that it could not."""
    try:
        record = json.loads((place / "failure.json").read_text(encoding="utf-8"))
        failure = retold(record)
    except (OSError, ValueError):
        if failed is None:
            return Interrupted("interrupted; the same command goes on from here")
        rank, first = failed.get_first_failure()
        failure = DeviceFailed(f"device {rank}: the process ended without a word, exit code {first.exitcode}")
    # The first device writes this itself, unless it was ended from outside.
    if directory.status == "running":
        directory.set_status("failed", message=str(failure))
        if isinstance(failure, DeviceFailed) and failure.traceback and not directory.traceback.is_file():
            write_text(directory.traceback, failure.traceback)
    return failure


@contextmanager
def _launching() -> Iterator[None]:
    """The launcher keeps quiet, and leaves signal handlers and environment as they were."""
    logger = logging.getLogger("torch.distributed.elastic")
    numbers = [getattr(signal, name) for name in _SIGNALS]
    level, handlers, environment = logger.level, [signal.getsignal(number) for number in numbers], dict(os.environ)
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for number, handler in zip(numbers, handlers, strict=True):
            signal.signal(number, handler)
        os.environ.clear()
        os.environ.update(environment)
