"""One of the processes of `torchrun -m fsbench train ...`: all compose the same run, the first speaks."""

from __future__ import annotations

import os
from argparse import Namespace

from fsbench.config.compose import Job, compose_jobs
from fsbench.errors import FsbenchError, UsageError, traceback_wanted
from fsbench.lines import say
from fsbench.stop_signal import StopSignal, stop_signal
from fsbench.training.outcome import already_done, described, failed_line, finished


def main(options: Namespace) -> int:
    """Train one run on as many devices as torchrun started processes."""
    with stop_signal() as stop:
        try:
            job = _job(options)
        except FsbenchError as failure:
            failure.said = int(os.environ["RANK"]) > 0  # every process meets it
            raise
        return _train(job, stop)


def _job(options: Namespace) -> Job:
    count = int(os.environ["WORLD_SIZE"])
    if options.multirun:
        raise UsageError("-m", "", f"torchrun trains one run; fsbench train -m trainer.devices={count} sweeps")
    (job,) = compose_jobs(options.overrides, multirun=False, config_dir=options.config_dir)
    if job.config.trainer.devices not in (1, count):
        raise UsageError(
            "trainer.devices", job.config.trainer.devices, f"torchrun started {count} processes; leave this key out"
        )
    # As given on the line, so that the record says so.
    line = [*options.overrides, f"trainer.devices={count}"]
    (job,) = compose_jobs(line, multirun=False, config_dir=options.config_dir)
    return job


def _train(job: Job, stop: StopSignal) -> int:
    from fsbench.distributed.devices import Devices
    from fsbench.training.run import train_on

    devices = Devices.joined(job.config.trainer.device, job.config.trainer.devices)
    try:
        with devices.failing_together():
            done = devices.from_first(lambda: finished(job)[1])
            results = done or train_on(devices, job, stop)
    except FsbenchError as failure:
        failure.said = not devices.speaks()
        raise
    except Exception as failure:
        if traceback_wanted():
            raise
        explained = FsbenchError(failed_line(finished(job)[0], failure))
        explained.said = not devices.speaks()
        raise explained from failure
    finally:
        devices.leave()
    if devices.first:
        directory = finished(job)[0]
        say(already_done(job, directory, results) if done else f"{directory.path}: done, {described(results)}")
    return 0
