"""Where steps run and how one is recorded, and which runs have theirs recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Protocol

import torch
from torch import Tensor

from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError


def records_steps(config: TrainConfig, device: torch.device) -> bool:
    """Whether a run's steps are to be recorded.

    Raises:
        UsageError: `trainer.cuda_graph=true` where that can't be.
    """
    trainer, method = config.trainer, config.optimizer
    reasons = {
        "needs a GPU": device.type != "cuda",
        f"not with trainer.devices={trainer.devices}, whose processes wait for each other": trainer.devices > 1,
        "not with trainer.precision=fp16, whose loss scale the host sets": trainer.precision == "fp16",
        "not with optimizer.fisher other than batch, a pass for each example": (
            getattr(method, "fisher", "batch") != "batch"
        ),
        f"not with optimizer={method.name}, which does not say that its step can be recorded": not method.recordable,
        "not with trainer.fast_dev_run=true, which makes two steps": trainer.fast_dev_run,
    }
    obstacle = next((reason for reason, holds in reasons.items() if holds), None)
    if trainer.cuda_graph is True and obstacle is not None:
        raise UsageError("trainer.cuda_graph", "true", f"{obstacle}; use auto or false")
    return trainer.cuda_graph is not False and obstacle is None


class Recorder(Protocol):
    """Where steps run, and how one is recorded."""

    def beside(self) -> AbstractContextManager[None]:
        """Steps run in here, recorded or not."""
        ...

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """What makes the step again."""
        ...

    def random_state(self) -> Tensor:
        """Changes whenever something is drawn."""
        ...

    def fits(self) -> bool:
        """Whether there is memory for a recorded step, which keeps its own, beside plain ones."""
        ...


class CudaRecorder:
    """Records on a stream of its own; the plain steps before run there too, as torch asks for.

    All recordings share their memory: they never run at once, and what one leaves there nobody reads, so that they may
    be launched in any order.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    @contextmanager
    def beside(self) -> Iterator[None]:
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        graph, first = torch.cuda.CUDAGraph(), None
        try:
            # Other threads (loaders that pin memory) may use the device meanwhile.
            with torch.cuda.graph(graph, self._pool, self.stream, capture_error_mode="thread_local"):
                try:
                    step()
                except BaseException as failure:
                    first = failure
                    raise
        except BaseException as last:
            # Ending a recording that failed fails too, and says less. The allocator would go on waiting for its end,
            # and not have back what was lent to another stream (batches).
            with suppress(RuntimeError):
                torch._C._cuda_endAllocateToPool(self.stream.device_index, self._pool)
            raise (first or last) from None
        return graph.replay

    def random_state(self) -> Tensor:
        return torch.cat([torch.get_rng_state(), torch.cuda.get_rng_state(self.device)])

    def fits(self) -> bool:
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        # The most so far holds the weights too, so this is on the safe side.
        return torch.cuda.max_memory_allocated(self.device) <= free + unused
