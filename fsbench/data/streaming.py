"""Batches of images that are decoded from their files when needed, in worker processes."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fsbench.data.seeding import derived_seed
from fsbench.data.splits import StreamingSplit
from fsbench.errors import FsbenchError, UsageError

Position = tuple[int, int]  # epoch, index

# Seconds without a batch after which something is wrong with the workers.
_PATIENCE = 600
_PREFETCHED = 2
_SHARED_MEMORY = "/dev/shm"


class FileBatches:
    """Decode, transform and stack the images of a split; workers start with the first batch and stay.

    Whatever `transform` draws from torch's global generator depends on (seed, epoch, index) alone: not on the
    workers, nor on what was drawn before; the global generator is left as it was.

    Raises:
        UsageError: there is less shared memory than the workers need for their batches of `batch_size` images, in
            which they would wait for each other for ever.
    """

    def __init__(
        self,
        split: StreamingSplit,
        transform: Callable[[Image.Image], Tensor],
        seed: int,
        device: torch.device,
        workers: int,
        batch_size: int,
    ) -> None:
        self._device = device
        self._positions: list[list[Position]] = []
        images = _Decoded(split, transform, seed)
        if workers:
            _refuse_little_memory(images, workers, min(batch_size, len(split)))
        self._loader = DataLoader(
            images,
            batch_sampler=self._positions,  # changed between epochs
            collate_fn=_stacked,
            num_workers=workers,
            persistent_workers=workers > 0,
            prefetch_factor=_PREFETCHED if workers else None,
            timeout=_PATIENCE if workers else 0,
            worker_init_fn=_leave_signals_alone,
            pin_memory=device.type == "cuda",
            generator=torch.Generator(),  # else starting an epoch would move the global one
        )

    def batches(self, chosen: Iterable[Tensor], epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) on the device for each vector of indices.

        Raises:
            UsageError: an image can't be decoded.
            FsbenchError: the workers have delivered nothing for ten minutes.
        """
        # The workers outlive the epoch, so it travels with every index instead of living in their dataset.
        self._positions[:] = [[(epoch, index) for index in indices.tolist()] for indices in chosen]
        for batch in self._loaded():
            if isinstance(batch, UsageError):
                try:
                    raise batch
                finally:
                    del batch  # in a cycle with its own traceback, it would hold up the workers' end for 10 s
            x, y = batch
            yield x.to(self._device, non_blocking=True), y.to(self._device, non_blocking=True)

    def _loaded(self) -> Iterator[tuple[Tensor, Tensor] | UsageError]:
        try:
            yield from self._loader
        except RuntimeError as failure:
            if "DataLoader timed out" not in str(failure):
                raise
            workers = self._loader.num_workers
            problem = f"no images came from the {workers} loader workers for {_PATIENCE} s; workers=0 does without them"
            raise FsbenchError(problem) from None


def _refuse_little_memory(images: _Decoded, workers: int, batch_size: int) -> None:
    """Raise UsageError where the batches that wait to be used, and the two in use, do not fit into shared memory."""
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        return  # a system that has it elsewhere
    example = images[0, 0]
    if isinstance(example, UsageError):
        raise example
    needed = (_PREFETCHED * workers + 2) * batch_size * example[0].nbytes
    if needed > free:
        problem = (
            f"their batches take {needed / 2**20:.0f} MiB of shared memory, {_SHARED_MEMORY} has {free / 2**20:.0f}"
        )
        raise UsageError("workers", workers, f"{problem}; have fewer (0 needs none), or give the container more")


def _leave_signals_alone(worker: int) -> None:
    # Ctrl-C reaches the whole process group, but it is for the main process to end in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
