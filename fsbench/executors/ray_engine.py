"""Ray: workers on this machine or a cluster, GPUs shared by fractions. Source: https://docs.ray.io."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from typing import Any

from fsbench.config.executor import RayOptions
from fsbench.errors import FsbenchError, UsageError, first_line
from fsbench.executors.pooled import Returned, Submission, WorkerLost, carry_out, needed
from fsbench.runs.provenance import available_cores

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Tasks are small; Ray would set aside a third of the memory for what passes between them.
_STORE = 100 * 2**20


class RayEngine:
    """Calls as tasks of Ray.

    Args:
        device: trainer.device of the runs: with `cpu` they ask for no GPU.
    """

    def __init__(self, options: RayOptions, device: str) -> None:
        self._options, self._device = options, device
        self.room = options.workers
        # Before it is imported: no reports to its makers, and GPUs are hidden from runs that asked for none.
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
        self._ray = needed("ray", "ray")

    def __enter__(self) -> RayEngine:
        # Ray's own handlers would end this process where ours save checkpoints.
        handlers = {number: signal.getsignal(number) for number in _SIGNALS}
        try:
            self._start()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        gpus = self._gpus()
        options: dict[str, Any] = {"num_cpus": self._options.cpus, "num_gpus": gpus, "max_retries": 0}
        if self._options.memory is not None:
            options["memory"] = int(self._options.memory * 2**30)
        if self._options.address is None:
            self._refuse_what_never_starts(gpus)
        self._remote = self._ray.remote(**options)(carry_out)
        return self

    def __exit__(self, *_: object) -> None:
        self._ray.shutdown()

    def submit(self, calls: Sequence[Submission]) -> list[Any]:
        return [self._remote.remote(call) for call in calls]

    def ended(self, handles: Sequence[Any], seconds: float) -> list[Any]:
        ready, _ = self._ray.wait(list(handles), num_returns=1, timeout=seconds)
        if not ready:
            return []
        ready, _ = self._ray.wait(list(handles), num_returns=len(handles), timeout=0)
        return list(ready)

    def result(self, handle: Any) -> Returned:
        errors = self._ray.exceptions
        try:
            return self._ray.get(handle)
        except errors.TaskCancelledError:
            return Returned(None)
        except errors.OutOfMemoryError:
            raise WorkerLost("its worker was killed by Ray, since the machine was running out of memory") from None
        except errors.NodeDiedError:
            raise WorkerLost("its machine was lost") from None
        except errors.RayTaskError as failure:
            raise FsbenchError(f"the worker could not begin, {first_line(failure.cause)}") from None
        except errors.RayError as failure:
            raise WorkerLost(f"its worker was lost ({type(failure).__name__})") from None

    def interrupt(self, handles: Sequence[Any]) -> None:
        for handle in handles:
            self._ray.cancel(handle)

    def left(self, handles: Sequence[Any]) -> None:
        return None

    def _start(self) -> None:
        quiet = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        if self._options.address is not None:
            try:
                self._ray.init(address=self._options.address, log_to_driver=False, logging_level="ERROR")
            except (ConnectionError, ValueError, RuntimeError, TimeoutError) as failure:
                raise UsageError("executor.address", self._options.address, first_line(failure)) from None
            return
        cpus = (self._options.workers or 0) * self._options.cpus or available_cores()
        self._ray.init(address="local", num_cpus=cpus, object_store_memory=_STORE, **quiet)

    def _gpus(self) -> float:
        if self._options.gpus is not None:
            return self._options.gpus
        return 0 if self._device == "cpu" else min(1, self._ray.cluster_resources().get("GPU", 0))

    def _refuse_what_never_starts(self, gpus: float) -> None:
        """On a cluster more may come; here it would wait for ever."""
        there = self._ray.cluster_resources()
        memory = self._options.memory or 0
        asked = {"cpus": ("CPU", self._options.cpus, 1), "gpus": ("GPU", gpus, 1), "memory": ("memory", memory, 2**30)}
        for key, (name, amount, unit) in asked.items():
            if amount * unit > there.get(name, 0):
                problem = f"this machine has {there.get(name, 0) / unit:g}"
                raise UsageError(f"executor.{key}", f"{amount:g}", problem)
