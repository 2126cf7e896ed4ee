"""Executors carry out runs: one after the other in this process, or side by side through Ray or SLURM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fsbench.config.executor import ExecutorOptions
    from fsbench.executors.executor import Executor
    from fsbench.stop_signal import StopSignal


def build_executor(options: ExecutorOptions, *, device: str, runs_dir: Path, stop: StopSignal) -> Executor:
    """The executor asked for; what it needs is imported here.

    Args:
        device: trainer.device of the runs.
        runs_dir: where their directories are, seen by all workers.

    Raises:
        UsageError: its package is not installed.
    """
    from fsbench.config.executor import RayOptions, SerialOptions, SlurmOptions

    if isinstance(options, SerialOptions):
        from fsbench.executors.executor import SerialExecutor

        return SerialExecutor(stop)
    from fsbench.executors.pooled import Engine, PooledExecutor

    if isinstance(options, SlurmOptions):
        from fsbench.executors.slurm_engine import SlurmEngine

        engine: Engine = SlurmEngine(options, device, runs_dir)
    else:
        from fsbench.executors.ray_engine import RayEngine

        assert isinstance(options, RayOptions)
        engine = RayEngine(options, device)
    return PooledExecutor(engine, options.cpus, options.retries, stop)
