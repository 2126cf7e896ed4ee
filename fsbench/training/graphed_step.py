"""A step of training as one CUDA graph: recorded once, then launched as a whole."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor

from fsbench.errors import first_line
from fsbench.training.device_counts import DeviceCounts
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.plain_step import PlainStep
from fsbench.training.recorder import Recorder

log = logging.getLogger("fsbench")

# Plain steps of the same form before it is recorded: libraries choose their kernels, the base makes its state.
WARM_UP = 3
# Steps after which what the device counted is looked at, so that a run that diverges ends.
_SETTLE = 20
# The recorded step may differ from the plain one by ten times what that differs from itself (atomic sums), or by this
# part of the way that the weights go: the second pass of SAM with a small radius changes a hundredth of it.
_ROUNDING = 1e-4
# What may change from step to step without another recording.
_FREE = {"params", "param_names", "lr", "initial_lr", "peak_lr"}


class GraphedStep:
    """PlainStep, recorded as a graph once `WARM_UP` steps in a row had the same form.

    Steps of another form (a smaller last batch, samples of the angle to SAM's eps) are plain ones. A form is the shape
    of the batch, the options of the groups but for the learning rate, and what `Descent.begin` says. Nothing is
    recorded where a step draws random numbers (dropout) or memory is short. A recorded step is compared with the plain
    one, made twice from the same weights, before it is used; if they differ, or nothing can be recorded, all steps are
    plain from there on and the log says so.

    What recorded steps count stays on the device until `settle`.
    """

    def __init__(self, plain: PlainStep, recorder: Recorder) -> None:
        self.plain, self.recorder = plain, recorder
        device = plain.closure.parameters[0].device
        # In fp32, as the fused kernels read them.
        self._rates = [torch.zeros((), device=device) for _ in plain.optimizer.param_groups]
        self._counts = DeviceCounts(device)
        self._off = False
        self._form: list[Any] | None = None
        self._in_a_row = 0
        self._drew = False
        self._recorded: list[Any] | None = None
        self._replay: Callable[[], None] | None = None

    def __call__(self, x: Tensor, y: Tensor, size: int, totals: EpochTotals) -> None:
        form = self._form_of(x, y, size)
        with self.recorder.beside():
            if form is not None and form == self._recorded:
                self._again(x, y, size)
                if self._counts.pending >= _SETTLE:
                    self.settle(totals)
                return
            self.settle(totals)
            trial = self._trial(form, x, y, size)
            before = self.recorder.random_state()
            self.plain(x, y, size, totals)
            self._drew = not torch.equal(before, self.recorder.random_state())
            if trial is not None:
                self._judge(form, *trial)
            self._in_a_row = self._in_a_row + 1 if form == self._form else 1
            self._form = form

    @property
    def recorded(self) -> bool:
        """Whether there is a recorded step to make."""
        return self._recorded is not None

    @property
    def skipped_in_a_row(self) -> int:
        """The most of late, as far as is known."""
        return max(self._counts.longest, self.plain.optimizer.skipped_in_a_row)

    def settle(self, totals: EpochTotals) -> None:
        """Have all that was counted so far in the totals and the optimizer."""
        self._counts.give(totals, self.plain.optimizer)

    def _form_of(self, x: Tensor, y: Tensor, size: int) -> list[Any] | None:
        """None for a step that is never recorded."""
        optimizer = self.plain.optimizer
        if self._off or getattr(optimizer, "compare", False):
            return None
        options = [{k: v for k, v in group.items() if k not in _FREE} for group in optimizer.param_groups]
        return [x.shape, x.dtype, y.shape, size, optimizer.begin(), options]

    def _trial(
        self, form: list[Any] | None, x: Tensor, y: Tensor, size: int
    ) -> tuple[list[Tensor], list[Tensor], list[Tensor]] | None:
        """If it is time, record a step; returns the weights before, after it and after a plain one, both taken back."""
        closure, optimizer = self.plain.closure, self.plain.optimizer
        if form is None or form != self._form or self._in_a_row < WARM_UP or optimizer.skipped_in_a_row:
            return None
        if self._drew:
            self._give_up("steps draw random numbers (dropout)")
            return None
        if not self.recorder.fits():
            self._give_up("it would need as much memory again")
            return None
        count = len(closure.parameters)
        states = [v for state in optimizer.state.values() for v in state.values() if torch.is_tensor(v)]
        changing = [p.detach() for p in closure.parameters] + [*closure.model.buffers(), *states]
        self._recorded = self._replay = None
        try:
            kept = [tensor.clone() for tensor in changing]
            self._x = torch.empty_like(x.contiguous(memory_format=closure.memory_format))
            self._y = torch.empty_like(y)
            self._replay = self.recorder.record(partial(self._once, size))
            found = []
            for step in (self._again, self._uncounted):
                try:
                    step(x, y, size)
                    found.append([tensor.clone() for tensor in changing[:count]])
                finally:
                    for tensor, value in zip(changing, kept, strict=True):
                        tensor.copy_(value)
                    self._counts.pending = 0
        except RuntimeError as failure:
            self._give_up(first_line(failure))
            return None
        return kept[:count], *found

    def _judge(self, form: list[Any] | None, start: list[Tensor], recorded: list[Tensor], plain: list[Tensor]) -> None:
        """Use what was recorded if it did to the weights what the plain step did, twice."""
        expected = [p.detach() for p in self.plain.closure.parameters]
        moved = _distance(start, expected)
        if moved == 0:
            return  # a step that was skipped shows nothing; the next one is tried
        if _distance(recorded, expected) <= max(10 * _distance(plain, expected), _ROUNDING * moved):
            self._recorded = form
        else:
            self._give_up("a recorded step was not the plain one")

    def _once(self, size: int) -> None:
        closure, optimizer = self.plain.closure, self.plain.optimizer
        closure.load(self._x, self._y, size)
        with self._rates_on_device():
            loss, taken = optimizer.masked_step(closure, size)
        self._counts.add(loss, taken, closure.hits, getattr(optimizer, "penalty", None))

    def _uncounted(self, x: Tensor, y: Tensor, size: int) -> None:
        optimizer, skipped = self.plain.optimizer, self.plain.optimizer.skipped
        self.plain.closure.load(x, y, size)
        optimizer.step(self.plain.closure, size=size)
        optimizer.skipped, optimizer.skipped_in_a_row = skipped, 0

    def _again(self, x: Tensor, y: Tensor, size: int) -> None:
        if not self._counts.pending:
            self._counts.begin(size, self.plain.optimizer)
        self._x.copy_(x)
        self._y.copy_(y)
        for rate, group in zip(self._rates, self.plain.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self._replay()
        self._counts.pending += 1

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Learning rates are read from the device inside, where each step finds its own."""
        groups = self.plain.optimizer.param_groups
        own = [{key: group[key] for key in ("lr", "capturable") if key in group} for group in groups]
        try:
            for rate, group in zip(self._rates, groups, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = True  # Adam asks for it, though its fused kernels need nothing
            yield
        finally:
            for group, values in zip(groups, own, strict=True):
                group.update(values)

    def _give_up(self, reason: str) -> None:
        self._off = True
        self._recorded = self._replay = None
        self.plain.optimizer.zero_grad()
        log.warning("trainer.cuda_graph: not used, %s", reason)


def _distance(a: list[Tensor], b: list[Tensor]) -> float:
    return float(torch.nn.utils.get_total_norm(torch._foreach_sub(a, b)))
