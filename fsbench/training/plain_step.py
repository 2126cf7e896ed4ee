"""A step of training as it is written: load, step, count."""

from __future__ import annotations

from torch import Tensor

from fsbench.optim import Descent
from fsbench.training.batch_closure import BatchClosure
from fsbench.training.epoch_totals import EpochTotals


class PlainStep:
    """One step of an optimizer on a mini-batch, counted in the epoch's totals."""

    def __init__(self, closure: BatchClosure, optimizer: Descent) -> None:
        self.closure, self.optimizer = closure, optimizer

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
        return self.optimizer.skipped_in_a_row

    def settle(self, totals: EpochTotals) -> None:
        """Have all that was counted so far in the totals and the optimizer: here it is."""
