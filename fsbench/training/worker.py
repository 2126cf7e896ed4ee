"""One of the processes that `launch` starts."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from pathlib import Path

from fsbench.training.stop_signal import stop_signal

_SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of prctl(2)


def main(directory: str) -> int:
    """Train the job that lies in a directory; the first process to fail says there why."""
    place = Path(directory)
    _end_with_parent()
    with stop_signal() as stop:
        from fsbench.config.compose import Job
        from fsbench.config.load import load
        from fsbench.config.train import TrainConfig

        handed = json.loads((place / "job.json").read_text(encoding="utf-8"))
        job = Job(load(handed["config"], TrainConfig), handed["choices"], tuple(handed["overrides"]))
        try:
            from fsbench.training.run import train

            train(job, stop)
        except BaseException as failure:
            from fsbench.training.devices import told

            try:
                with (place / "failure.json").open("x", encoding="utf-8") as file:
                    json.dump(told(failure, int(os.environ["RANK"])), file)
            except FileExistsError:
                pass
            if os.environ.get("HYDRA_FULL_ERROR") == "1":
                raise
            return getattr(failure, "exit_code", 1)
    return 0


def _end_with_parent() -> None:
    """A launcher that is killed does not leave processes behind: they stop as at a signal (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGTERM)
