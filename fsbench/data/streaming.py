"""Batches of images that are decoded from their files when needed, in worker processes."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fsbench.data.seeding import derived_seed
from fsbench.data.splits import StreamingSplit
from fsbench.errors import UsageError

Position = tuple[int, int]  # epoch, index


class FileBatches:
    """Decode, transform and stack the images of a split; workers start with the first batch and stay.

    Whatever `transform` draws from torch's global generator depends on (seed, epoch, index) alone: not on the
    workers, nor on what was drawn before; the global generator is left as it was.
    """

    def __init__(
        self,
        split: StreamingSplit,
        transform: Callable[[Image.Image], Tensor],
        seed: int,
        device: torch.device,
        workers: int,
    ) -> None:
        self._device = device
        self._positions: list[list[Position]] = []
        self._loader = DataLoader(
            _Decoded(split, transform, seed),
            batch_sampler=_Positions(self._positions),
            collate_fn=_stacked,
            num_workers=workers,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_signals_alone,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else starting an epoch would move the global one
        )

    def batches(self, chosen: Iterable[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) on the device for each vector of indices. Raises UsageError where an image can't be decoded."""
        # The workers outlive the epoch, so it travels with every index instead of living in their dataset.
        self._positions[:] = [[(epoch, index) for index in indices.tolist()] for indices in chosen]
        for batch in self._loader:
            if isinstance(batch, UsageError):
                try:
                    raise batch
                finally:
                    del batch  # in a cycle with its own traceback, it would hold up the workers' end for 10 s
            x, y = batch
            yield x.to(self._device, non_blocking=True), y.to(self._device, non_blocking=True)


def _leave_signals_alone(worker: int) -> None:
    # Ctrl-C reaches the whole process group, but it is for the main process to end in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Positions:
    """A batch sampler over a list that its owner changes between epochs."""

    def __init__(self, positions: list[list[Position]]) -> None:
        self.positions = positions

    def __len__(self) -> int:
        return len(self.positions)

    def __iter__(self) -> Iterator[list[Position]]:
        return iter(list(self.positions))


class _Decoded(Dataset):
    def __init__(self, split: StreamingSplit, transform: Callable[[Image.Image], Tensor], seed: int) -> None:
        self.split, self.transform, self.seed = split, transform, seed

    def __getitem__(self, position: Position) -> tuple[Tensor, int] | UsageError:
        epoch, index = position
        try:
            image, label = self.split[index]
        except UsageError as failure:
            return failure  # a DataLoader would turn an exception of a worker into another one
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would seed the accelerators too.
            torch.default_generator.manual_seed(derived_seed(self.seed, "augment", epoch, index))
            return self.transform(image), label


def _stacked(examples: Sequence[tuple[Tensor, int] | UsageError]) -> tuple[Tensor, Tensor] | UsageError:
    for example in examples:
        if isinstance(example, UsageError):
            return example
    images, labels = zip(*examples, strict=True)
    return torch.stack(images), torch.tensor(labels)
