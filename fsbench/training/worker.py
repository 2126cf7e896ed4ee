"""One of the processes that `launch` starts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fsbench.training.stop_signal import stop_signal


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


@contextmanager
def recorded_failure(place: Path) -> Iterator[list[int]]:
    """Yields a list that holds the exit code in the end; the first process to fail says in `place` why."""
    ended = [0]
    try:
        yield ended
    except BaseException as failure:
        from fsbench.training.devices import told

        with suppress(OSError), (place / "failure.json").open("x", encoding="utf-8") as file:
            json.dump(told(failure, int(os.environ["RANK"])), file)
        if os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        ended[0] = getattr(failure, "exit_code", 1)
