"""The step of a population: the mini-batches, passes and updates of all members at once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fsbench.data.batches import Batch, TrainBatches
from fsbench.optim import Descent
from fsbench.population.descent import StackedDescent
from fsbench.training.epoch_totals import EpochTotals
from fsbench.training.memory_format import memory_format_of
from fsbench.training.step import DeviceCounts


class StackedBatches:
    """Each member's own mini-batches, (M, B, C, H, W) and (M, B).

    Where all have the same images and nothing is drawn for them, the images of all members are gathered at once.

    Args:
        members: as many examples, and batches as large, in each; in memory.
        drawn: whether the augmentation changes images at random.
    """

    def __init__(self, members: Sequence[TrainBatches], drawn: bool) -> None:
        self.members = members
        first = members[0]
        self._together = not drawn and all(member.images is first.images for member in members)
        if self._together:
            self._labels = torch.stack([member.labels for member in members])

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """(x, y) of the steps start, start + 1, ... of all members."""
        if not self._together:
            for batches in zip(*(member.epoch(epoch, start) for member in self.members), strict=True):
                yield torch.stack([x for x, _ in batches]), torch.stack([y for _, y in batches])
            return
        first = self.members[0]
        order = torch.stack([member.order(epoch) for member in self.members]).to(first.device)
        for step, chosen in enumerate(order.split(first.batch_size, dim=1)[start : len(first)], start):
            images = first.images.index_select(0, chosen.flatten())
            x = first.augmented(images, epoch, step)
            yield x.view(*chosen.shape, *x.shape[1:]), self._labels.gather(1, chosen)


class StackedClosure:
    """The gradient of each member's mean loss over its own mini-batch, at stacked weights.

    The sum of the members' losses has these gradients, so one backward pass gives all: `vmap` makes one batched
    product of each linear layer, one grouped convolution of each convolution. On a CPU, where grouped convolutions are
    slow, networks with convolutions are passed one after the other.

    Args:
        model: the architecture, with no state but its parameters.
        loss: a mean over a mini-batch, of operations that can be mapped (vmap).
    """

    def __init__(self, model: nn.Module, loss: nn.Module) -> None:
        self.model, self.loss = model, loss
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
        on_cpu = next(model.parameters()).device.type == "cpu"
        self._pass = self._one_by_one if convolutional and on_cpu else self._together
        self.memory_format = memory_format_of(model)

    def load(self, x: Tensor, y: Tensor) -> None:
        """Take the next mini-batches, (M, B, C, H, W) and (M, B)."""
        self.x, self.y = x, y
        self._first = True

    def __call__(self, weights: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Losses (M,) and gradients. `hits` remembers how many of each member's answers were right at first, at w."""
        with torch.enable_grad():
            losses, gradients, logits = self._pass(weights)
        if self._first:
            self.hits, self._first = (logits.argmax(-1) == self.y).sum(1), False
        return losses, gradients

    def _answer(self, weights: tuple[Tensor, ...], x: Tensor) -> Tensor:
        return functional_call(self.model, dict(zip(self.names, weights, strict=True)), (x,))

    def _together(self, weights: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        leaves = tuple(w.detach().requires_grad_() for w in weights)
        logits = torch.vmap(self._answer)(leaves, self.x)
        losses = torch.vmap(self.loss)(logits, self.y)
        return losses.detach(), list(torch.autograd.grad(losses.sum(), leaves)), logits.detach()

    def _one_by_one(self, weights: list[Tensor]) -> tuple[Tensor, list[Tensor], Tensor]:
        gradients = [torch.empty_like(w) for w in weights]
        losses, answers = [], []
        for member, (x, y) in enumerate(zip(self.x, self.y, strict=True)):
            leaves = tuple(w[member].detach().requires_grad_() for w in weights)
            logits = self._answer(leaves, x.contiguous(memory_format=self.memory_format))
            loss = self.loss(logits, y)
            for stack, gradient in zip(gradients, torch.autograd.grad(loss, leaves), strict=True):
                stack[member].copy_(gradient)
            losses.append(loss.detach())
            answers.append(logits.detach())
        return torch.stack(losses), gradients, torch.stack(answers)


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

    # The step that a recording is compared with.
    uncounted = masked
