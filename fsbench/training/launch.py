"""The processes of a run on several devices: how they are started, and the work of each.

Light to import: a process that is started attends to signals before it imports torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from fsbench.config.compose import Job
from fsbench.distributed.failures import DeviceFailed, recorded_failure
from fsbench.errors import Interrupted
from fsbench.runs.atomic import scratch_directory, write_text
from fsbench.runs.directory import RunDirectory
from fsbench.stop_signal import StopSignal, stop_signal


def launch(job: Job, stop: StopSignal) -> dict[str, Any]:
    """Train a run in `trainer.devices` processes; returns its results.

    A signal is passed on to them: they leave a checkpoint.

    Raises:
        UsageError: there are too few GPUs.
        DeviceFailed: a process ended by an exception that explains nothing, or was killed; else what it raised.
    """
    from torch.distributed.elastic.multiprocessing import SignalException

    from fsbench.distributed.devices import refuse_absent
    from fsbench.distributed.elastic import start, why

    options = job.config
    refuse_absent(options.trainer.device, options.trainer.devices)
    directory = RunDirectory.of(options.model_dump(mode="json"), job.choices)
    with scratch_directory(Path(gettempdir())) as scratch:
        place = str(scratch)
        handed = {"config": options.model_dump(mode="json"), "choices": job.choices, "overrides": list(job.overrides)}
        Path(place, "job.json").write_text(json.dumps(handed), encoding="utf-8")
        try:
            start(options.trainer.devices, "fsbench.training.launch", place)
        except SignalException:
            stop.requested = True
            if not directory.finished:
                told = why(place) or Interrupted("interrupted; the same command goes on from here")
                raise _recorded(directory, told) from None
        except Exception as failure:
            raise _recorded(directory, failure) from None
    return directory.read_results()


def main(directory: str) -> int:
    """Train the job that lies in a directory."""
    place = Path(directory)
    with stop_signal() as stop, recorded_failure(place) as ended:
        from fsbench.config.compose import Job
        from fsbench.config.load import load
        from fsbench.config.train import TrainConfig

        handed = json.loads((place / "job.json").read_text(encoding="utf-8"))
        job = Job(load(handed["config"], TrainConfig), handed["choices"], tuple(handed["overrides"]))

        from fsbench.training.run import train

        train(job, stop)
    return ended[0]


def _recorded(directory: RunDirectory, failure: Exception) -> Exception:
    """The first device writes this itself, unless it was ended from outside."""
    if directory.recorded_status()[0] == "running":
        directory.set_status("interrupted" if isinstance(failure, Interrupted) else "failed", message=str(failure))
        if isinstance(failure, DeviceFailed) and failure.traceback and not directory.traceback.is_file():
            write_text(directory.traceback, failure.traceback)
    return failure
