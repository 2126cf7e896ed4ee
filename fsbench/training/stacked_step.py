"""The step of a population: all members' steps at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor, nn

from fsbench.optim import Descent
from fsbench.optim.stacked_descent import StackedDescent
from fsbench.training.device_counts import DeviceCounts
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.stacked_closure import StackedClosure


class StackedStep:
    """A step that `GraphedStep` can record; as it is written it looks at nothing on the host but to count.

    Args:
        members: the optimizers of networks of one shape.
        model: one of the networks.
        loss: the mean cross-entropy.
    """

    def __init__(self, members: Sequence[Descent], model: nn.Module, loss: nn.Module) -> None:
        self.optimizer = StackedDescent(members)
        self.closure = StackedClosure(model, loss)
        self.counts = DeviceCounts(self.optimizer.weights[0].device, len(members))

    def __call__(self, x: Tensor, y: Tensor, size: int, totals: Sequence[EpochTotals]) -> None:
        """The step on the members' mini-batches, (M, B, C, H, W) and (M, B), counted in the totals of each."""
        self.prepare()
        self.masked(x, y, size)
        self.settle(totals)

    @property
    def skipped_in_a_row(self) -> int:
        """The most of late of any member, as far as is known."""
        return max(self.counts.longest)

    def settle(self, totals: Sequence[EpochTotals]) -> None:
        self.counts.give(totals, self.optimizer.members)

    def form(self, x: Tensor, y: Tensor, size: int) -> Hashable:
        return x.shape, x.dtype, y.shape, self.optimizer.compare

    def inputs(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return torch.empty_like(x), torch.empty_like(y)

    def weights(self) -> list[list[Tensor]]:
        return [list(own) for own in zip(*self.optimizer.weights, strict=True)]

    def others(self) -> list[Tensor]:
        return [tensor for tensors in self.optimizer.base.memory for tensor in tensors]

    def prepare(self) -> None:
        self.counts.begin(self.optimizer.members)
        self.optimizer.begin()

    def masked(self, x: Tensor, y: Tensor, size: int) -> None:
        self.closure.load(x, y)
        losses, taken = self.optimizer.step(self.closure)
        self.counts.add(size, losses, taken, self.closure.hits, alignment=self.optimizer.alignment)

    # The one beside which a recording is put.
    uncounted = masked
