"""What recorded steps count, kept on the device until somebody asks."""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.optim import Descent
from fsbench.training.epoch_totals import EpochTotals


class DeviceCounts:
    """Sums over steps of `size` examples each; `add` never waits for the device.

    Attributes:
        pending: steps since the sums were last given away.
        longest: most steps skipped in a row among those that were given away last.
    """

    def __init__(self, device: torch.device) -> None:
        self.pending = 0
        self.longest = 0
        self._size = 0
        self._penalised = False
        # Loss and penalty; steps taken, rows answered rightly, steps skipped in a row and the most of those.
        self._real = torch.zeros(2, dtype=torch.float64, device=device)
        self._whole = torch.zeros(4, dtype=torch.int64, device=device)

    def begin(self, size: int, optimizer: Descent) -> None:
        """From nothing, but for the steps in a row that the optimizer skipped just before."""
        self.pending = 0
        self._size = size
        self._real.zero_()
        self._whole.zero_()
        self._whole[2:].fill_(optimizer.skipped_in_a_row)

    def add(self, loss: Tensor, taken: Tensor, hits: Tensor, penalty: Tensor | None) -> None:
        """One step, in a recording; whoever has it made again counts it as pending."""
        self._penalised = penalty is not None
        values = torch.stack([loss.double() * self._size, torch.zeros_like(loss).double()])
        if penalty is not None:
            values[1] = penalty.double()
        self._real += torch.where(taken, values, 0.0)
        one = taken.long()
        self._whole += torch.stack([one, one * hits, 1 - one, 0 * one])
        self._whole[2] *= 1 - one
        torch.maximum(self._whole[3], self._whole[2], out=self._whole[3])

    def give(self, totals: EpochTotals, optimizer: Descent) -> None:
        """Move everything to where a plain step counts."""
        if not self.pending:
            return
        loss, penalty = self._real.tolist()
        taken, hits, in_a_row, self.longest = self._whole.tolist()
        skipped = self.pending - taken
        totals.steps += self.pending
        totals.skipped += skipped
        totals.seen += taken * self._size
        totals.loss = totals.loss + loss
        totals.hits = totals.hits + hits
        if self._penalised:
            totals.penalised += taken
            totals.penalty = totals.penalty + penalty
        optimizer.skipped += skipped
        optimizer.skipped_in_a_row = in_a_row
        self.pending = 0
