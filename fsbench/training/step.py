"""A step of training as it is written: load, step, count; and the same with nothing on the host."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from fsbench.optim import Descent
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.epoch_totals import EpochTotals

# The rows of the sums: steps taken and fields of `EpochTotals`; then steps skipped in a row, and the most of those.
_SUMS = (
    "taken", "seen", "hits", "loss", "penalised", "penalty", "sampled", "digits", "compared", "cosine", "length_ratio",
)  # fmt: skip
_STREAK = len(_SUMS)
_ROWS = _STREAK + 2


class DeviceCounts:
    """Sums over steps, of several sizes too; `add` never waits for the device.

    Args:
        device: where.
        members: of a population, whose losses and verdicts are (M,); None: one run, whose are scalars.

    Attributes:
        pending: steps since the sums were last given away.
        longest: most steps that each run skipped in a row among those that were given away last.
    """

    def __init__(self, device: torch.device, members: int | None = None) -> None:
        self.pending = 0
        self.longest = [0] * (members or 1)
        shape = (_ROWS,) if members is None else (_ROWS, members)
        self._sums = torch.zeros(shape, dtype=torch.float64, device=device)

    def begin(self, optimizers: Sequence[Descent]) -> None:
        """Count a step that the device is about to make; the first of some goes on from what optimizers skipped."""
        if not self.pending:
            self._sums.zero_()
            for run, optimizer in enumerate(optimizers):
                if optimizer.skipped_in_a_row:
                    self._sums[_STREAK:].view(2, -1)[:, run].fill_(optimizer.skipped_in_a_row)
        self.pending += 1

    def add(
        self,
        size: int,
        loss: Tensor,
        taken: Tensor,
        hits: Tensor,
        penalty: Tensor | None = None,
        digits: Tensor | None = None,
        alignment: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """The device's part of a step on `size` examples."""
        loss = loss.double()
        one = torch.ones_like(loss)
        self._add("taken", taken, one, one * size, hits, loss * size)
        if penalty is not None:
            self._add("penalised", taken, one, penalty)
        if digits is not None:
            self._add("sampled", taken, one, digits)
        if alignment is not None:
            self._add("compared", taken & alignment[0].isfinite(), one, *alignment)
        streak, longest = self._sums[_STREAK:]
        streak.copy_((streak + 1).where(~taken, 0.0))
        torch.maximum(longest, streak, out=longest)

    def _add(self, name: str, where: Tensor, *values: Tensor) -> None:
        first = _SUMS.index(name)
        self._sums[first : first + len(values)] += torch.stack(values).where(where, 0.0)

    def give(self, totals: Sequence[EpochTotals], optimizers: Sequence[Descent]) -> None:
        """Move everything to where a plain step counts, for each run."""
        if not self.pending:
            return
        runs = self._sums.view(_ROWS, -1).T.tolist()
        self.longest = [int(sums[-1]) for sums in runs]
        for total, optimizer, sums in zip(totals, optimizers, runs, strict=True):
            skipped = self.pending - int(sums[0])
            total.steps += self.pending
            total.skipped += skipped
            for name, value in zip(_SUMS[1:], sums[1:_STREAK], strict=True):
                setattr(total, name, getattr(total, name) + value)
            optimizer.skipped += skipped
            optimizer.skipped_in_a_row = int(sums[_STREAK])
        self.pending = 0


# What may change from step to step without another recording.
_FREE = {"params", "param_names", "lr", "initial_lr", "peak_lr"}


class PlainStep:
    """One step of an optimizer on a mini-batch, counted in the epoch's totals.

    What `GraphedStep` records is `masked`, the same step without a look at any value from the host.
    """

    def __init__(self, closure: BatchClosure, optimizer: Descent) -> None:
        self.closure, self.optimizer = closure, optimizer
        device = closure.parameters[0].device
        self.counts = DeviceCounts(device)
        # In fp32, as the fused kernels read them.
        self._rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]

    def __call__(self, x: Tensor, y: Tensor, size: int, totals: EpochTotals) -> None:
        """The step on this device's rows of a mini-batch that has `size` in all."""
        closure, optimizer = self.closure, self.optimizer
        closure.load(x, y, size)
        skipped_before = optimizer.skipped
        loss = optimizer.step(closure, size=size)
        skipped = optimizer.skipped > skipped_before
        closure.precision.after_step(skipped)
        closure.after_step(skipped)
        totals.add(optimizer, loss, closure.hits, size, skipped)

    @property
    def skipped_in_a_row(self) -> int:
        """The most of late, as far as is known."""
        return max(*self.counts.longest, self.optimizer.skipped_in_a_row)

    def settle(self, totals: EpochTotals) -> None:
        """Have all that was counted so far in the totals and the optimizer."""
        self.counts.give([totals], [self.optimizer])

    # What a recording of it asks.

    def form(self, x: Tensor, y: Tensor, size: int) -> Hashable:
        """A key that is the same for all steps that one recording can make: the shape of the batch, the options of the
        groups but for the learning rate, and what `Descent.begin` says."""
        groups = self.optimizer.param_groups
        options = [sorted((k, v) for k, v in group.items() if k not in _FREE) for group in groups]
        return x.shape, x.dtype, y.shape, size, self.optimizer.begin(), repr(options)

    def inputs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Memory for a mini-batch, as the closure lays it out."""
        return torch.empty_like(x.contiguous(memory_format=self.closure.memory_format)), torch.empty_like(y)

    def weights(self) -> list[list[Tensor]]:
        """The weights of each run."""
        return [[p.detach() for p in self.closure.parameters]]

    def others(self) -> list[Tensor]:
        """All else that a step changes."""
        states = self.optimizer.state.values()
        return [*self.closure.model.buffers(), *(v for state in states for v in state.values() if torch.is_tensor(v))]

    def prepare(self) -> None:
        """The host's part of a masked step."""
        self.counts.begin([self.optimizer])
        for rate, group in zip(self._rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])

    def masked(self, x: Tensor, y: Tensor, size: int) -> None:
        """The device's part of the step; it counts there."""
        closure, optimizer = self.closure, self.optimizer
        closure.load(x, y, size)
        with self._rates_on_device():
            loss, taken = optimizer.masked_step(closure, size)
        extras = (getattr(optimizer, name, None) for name in ("penalty", "difference_digits", "alignment"))
        self.counts.add(size, loss, taken, closure.hits, *extras)

    def uncounted(self, x: Tensor, y: Tensor, size: int) -> None:
        """The step as it is written, counted nowhere."""
        optimizer = self.optimizer
        skipped = optimizer.skipped, optimizer.skipped_in_a_row
        self.closure.load(x, y, size)
        optimizer.step(self.closure, size=size)
        optimizer.skipped, optimizer.skipped_in_a_row = skipped

    @contextmanager
    def _rates_on_device(self) -> Iterator[None]:
        """Learning rates are read from the device inside, where each step finds its own."""
        groups = self.optimizer.param_groups
        own: list[dict[str, Any]] = [{k: group[k] for k in ("lr", "capturable") if k in group} for group in groups]
        try:
            for rate, group in zip(self._rates, groups, strict=True):
                group["lr"] = rate
                if "capturable" in group:
                    group["capturable"] = True  # Adam asks for it, though its fused kernels need nothing
            yield
        finally:
            for group, values in zip(groups, own, strict=True):
                group.update(values)
