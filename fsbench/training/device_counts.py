"""What recorded steps count, kept on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fsbench.optim import Descent
from fsbench.training.epoch_totals import EpochTotals

# The rows of the sums: the first of each kind of quantity that a step may have.
_ALWAYS, _PENALTY, _DIGITS, _ALIGNMENT, _STREAK, _ROWS = 0, 4, 6, 8, 11, 13


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
        # Steps taken, examples, hits, loss; regularised steps, penalty; those of them that compare, digits; steps
        # compared with SAM's, cosine, ratio of lengths; steps skipped in a row so far, and the most of those.
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
        self._add(_ALWAYS, taken, one, one * size, hits, loss * size)
        if penalty is not None:
            self._add(_PENALTY, taken, one, penalty)
        if digits is not None:
            self._add(_DIGITS, taken, one, digits)
        if alignment is not None:
            self._add(_ALIGNMENT, taken & alignment[0].isfinite(), one, *alignment)
        streak, longest = self._sums[_STREAK:]
        streak.copy_((streak + 1).where(~taken, 0.0))
        torch.maximum(longest, streak, out=longest)

    def _add(self, first: int, where: Tensor, *values: Tensor) -> None:
        self._sums[first : first + len(values)] += torch.stack(values).where(where, 0.0)

    def give(self, totals: Sequence[EpochTotals], optimizers: Sequence[Descent]) -> None:
        """Move everything to where a plain step counts, for each run."""
        if not self.pending:
            return
        runs = self._sums.view(_ROWS, -1).T.tolist()
        self.longest = [int(sums[-1]) for sums in runs]
        for total, optimizer, sums in zip(totals, optimizers, runs, strict=True):
            taken, seen, hits, loss, penalised, penalty, sampled, digits, compared, cosine, ratio, streak, _ = sums
            skipped = self.pending - int(taken)
            total.steps += self.pending
            total.skipped += skipped
            total.seen += int(seen)
            total.loss = total.loss + loss
            total.hits = total.hits + int(hits)
            total.penalised += int(penalised)
            total.penalty = total.penalty + penalty
            total.sampled += int(sampled)
            total.digits = total.digits + digits
            total.compared += int(compared)
            total.cosine += cosine
            total.length_ratio += ratio
            optimizer.skipped += skipped
            optimizer.skipped_in_a_row = int(streak)
        self.pending = 0
