"""The mini-batches of many runs in step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from fsbench.data.batches import Batch, TrainBatches


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
