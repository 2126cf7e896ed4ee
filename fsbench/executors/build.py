"""From the options of `executor=` to the executor."""

from __future__ import annotations

from pathlib import Path

from fsbench.config.executor import ExecutorOptions, SerialOptions, SlurmOptions
from fsbench.executors.executor import Executor
from fsbench.executors.pooled import PooledExecutor
from fsbench.executors.population import PopulationExecutor
from fsbench.training.stop_signal import StopSignal


def build_executor(options: ExecutorOptions, *, device: str, runs_dir: Path, stop: StopSignal) -> Executor:
    """The executor asked for; what it needs is imported here.

    Args:
        device: trainer.device of the runs.
        runs_dir: where their directories are, seen by all workers.

    Raises:
        UsageError: its package is not installed.
    """
    if isinstance(options, SerialOptions):
        return PopulationExecutor(stop)
    if isinstance(options, SlurmOptions):
        from fsbench.executors.slurm_engine import SlurmEngine

        engine = SlurmEngine(options, device, runs_dir)
    else:
        from fsbench.executors.ray_engine import RayEngine

        engine = RayEngine(options, device)
    return PooledExecutor(engine, options.cpus, options.retries, stop)
