"""A step of training as CUDA graphs: each form of it recorded once, then launched as a whole."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from fsbench.config.train import TrainConfig
from fsbench.errors import UsageError, first_line
from fsbench.training.step import DeviceCounts


def records_steps(config: TrainConfig, device: torch.device) -> bool:
    """True where `trainer.cuda_graph=true` asks for it; `auto` records no steps: no GPU has tried the recordings yet.

    Raises:
        UsageError: it is asked for where that can't be.
    """
    trainer, method = config.trainer, config.optimizer
    if trainer.cuda_graph is not True:
        return False
    reasons = {
        "needs a GPU": device.type != "cuda",
        f"not with trainer.devices={trainer.devices}, whose processes wait for each other": trainer.devices > 1,
        "not with trainer.precision=fp16, whose loss scale the host sets": trainer.precision == "fp16",
        "not with optimizer.fisher other than batch, a pass for each example": (
            getattr(method, "fisher", "batch") != "batch"
        ),
        "not with optimizer.rho_min, a radius for each step": getattr(method, "rho_min", None) is not None,
        f"not with optimizer={method.name}, which does not say that its step can be recorded": not method.recordable,
        "not with trainer.fast_dev_run=true, which makes two steps": trainer.fast_dev_run,
    }
    for reason, holds in reasons.items():
        if holds:
            raise UsageError("trainer.cuda_graph", "true", f"{reason}; use false")
    return True


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
    def on_stream(self) -> Iterator[None]:
        """Steps run in here, recorded or not."""
        outside = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(outside)
        with torch.cuda.stream(self.stream):
            yield
        outside.wait_stream(self.stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step; returns the function that makes it again."""
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
        """Changes whenever something is drawn."""
        return torch.cat([torch.get_rng_state(), torch.cuda.get_rng_state(self.device)])

    def fits(self) -> bool:
        """True if there is memory for a recorded step, which keeps its own, beside plain ones."""
        free, _ = torch.cuda.mem_get_info(self.device)
        unused = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        # The most so far holds the weights too, so this is on the safe side.
        return torch.cuda.max_memory_allocated(self.device) <= free + unused


log = logging.getLogger("fsbench")

# Plain steps of a form before it is recorded: libraries choose their kernels, the base makes its state.
WARM_UP = 3
# Steps after which what the device counted is looked at, so that a run that diverges ends.
_SETTLE = 20
# The recorded step may differ from the plain one by ten times what that differs from itself (atomic sums), or by this
# part of the way that the weights go: the second pass of SAM with a small radius changes a hundredth of it.
_ROUNDING = 1e-4


class RecordableStep(Protocol):
    """A step that can be recorded: `PlainStep`, or that of a population."""

    counts: DeviceCounts

    def __call__(self, x: Tensor, y: Tensor, size: int, totals: Any) -> None: ...

    def settle(self, totals: Any) -> None: ...

    @property
    def skipped_in_a_row(self) -> int: ...

    def form(self, x: Tensor, y: Tensor, size: int) -> Hashable: ...

    def inputs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]: ...

    def weights(self) -> list[list[Tensor]]: ...

    def others(self) -> list[Tensor]: ...

    def prepare(self) -> None: ...

    def masked(self, x: Tensor, y: Tensor, size: int) -> None: ...

    def uncounted(self, x: Tensor, y: Tensor, size: int) -> None: ...


@dataclass
class _Form:
    """A form of the step: the number of plain steps that had it, if the last drew random numbers, and the recording."""

    seen: int = 0
    drew: bool = False
    used: bool = False
    again: Callable[[Tensor, Tensor], None] | None = None


class GraphedStep:
    """A step recorded as a graph for each of its forms (a smaller last batch, a step that compares SAM's eps), once
    `WARM_UP` steps of it were made.

    Nothing is recorded where a step draws random numbers (dropout) or memory is short. A recorded step is compared with
    the plain one, made twice from the same weights, before it is used; if they differ, or it can't be recorded, the log
    says so, and steps of all forms that are not recorded yet are plain from there on.

    What recorded steps count stays on the device until `settle`.
    """

    def __init__(self, plain: RecordableStep, recorder: CudaRecorder) -> None:
        self.plain, self.recorder = plain, recorder
        self._off = False
        self._forms: dict[Hashable, _Form] = {}

    def __call__(self, x: Tensor, y: Tensor, size: int, totals: Any) -> None:
        form = self._forms.setdefault(self.plain.form(x, y, size), _Form())
        with self.recorder.on_stream():
            if form.used and form.again is not None:
                form.again(x, y)
                if self.plain.counts.pending >= _SETTLE:
                    self.settle(totals)
                return
            self.settle(totals)
            trial = self._trial(form, x, y, size)
            before = self.recorder.random_state()
            self.plain(x, y, size, totals)
            form.drew = not torch.equal(before, self.recorder.random_state())
            form.seen += 1
            if trial is not None:
                self._judge(form, *trial)

    @property
    def recorded(self) -> int:
        """The number of forms of the step that are made by launching a recording."""
        return sum(form.used for form in self._forms.values())

    @property
    def skipped_in_a_row(self) -> int:
        return self.plain.skipped_in_a_row

    def settle(self, totals: Any) -> None:
        self.plain.settle(totals)

    def _trial(self, form: _Form, x: Tensor, y: Tensor, size: int) -> list[list[list[Tensor]]] | None:
        """If it is time, record a step; returns the weights before, after it and after a plain one, both taken back."""
        plain = self.plain
        if self._off or form.seen < WARM_UP or plain.skipped_in_a_row:
            return None
        if form.drew:
            self._give_up("steps draw random numbers (dropout)")
            return None
        if not self.recorder.fits():
            self._give_up("it would need as much memory again")
            return None
        weights, others = plain.weights(), plain.others()
        try:
            kept, found = _copies([others]), [_copies(weights)]
            inputs = plain.inputs(x, y)
            form.again = partial(self._again, inputs, self.recorder.record(partial(plain.masked, *inputs, size)))
            for step in (form.again, partial(plain.uncounted, size=size)):
                try:
                    step(x, y)
                    found.append(_copies(weights))
                finally:
                    for run, values in zip([*weights, others], [*found[0], *kept], strict=True):
                        for tensor, value in zip(run, values, strict=True):
                            tensor.copy_(value)
                    plain.counts.pending = 0
        except RuntimeError as failure:
            place = traceback.extract_tb(failure.__traceback__)[-1]
            self._give_up(f"{first_line(failure)} ({Path(place.filename).name}, line {place.lineno})")
            return None
        return found

    def _judge(
        self, form: _Form, start: list[list[Tensor]], recorded: list[list[Tensor]], plain: list[list[Tensor]]
    ) -> None:
        """Use what was recorded if it did to the weights of each run what the plain step did, twice."""
        told = []
        for before, mine, theirs, expected in zip(start, recorded, plain, self.plain.weights(), strict=True):
            moved = _distance(before, expected)
            if 0 < moved < math.inf:  # a step that was skipped shows nothing
                allowed = max(10 * _distance(theirs, expected), _ROUNDING * moved)
                told.append(_distance(mine, expected) <= allowed)
        if not told:
            return  # the next one is tried
        if all(told):
            form.used = True
        else:
            self._give_up("a recorded step was not the plain one")

    def _again(self, inputs: tuple[Tensor, Tensor], replay: Callable[[], None], x: Tensor, y: Tensor) -> None:
        for held, value in zip(inputs, (x, y), strict=True):
            held.copy_(value)
        self.plain.prepare()
        replay()

    def _give_up(self, reason: str) -> None:
        self._off = True
        for form in self._forms.values():
            if not form.used:
                form.again = None
        used = f"used for {self.recorded} of {len(self._forms)} forms of the step" if self.recorded else "not used"
        log.warning("trainer.cuda_graph: %s, %s", used, reason)


def _copies(runs: list[list[Tensor]]) -> list[list[Tensor]]:
    return [[tensor.clone() for tensor in run] for run in runs]


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(torch._foreach_sub(a, b)))
