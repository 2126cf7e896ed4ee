"""Mini-batches for training and for evaluation, from memory or from files.

Nothing here has a state to save: what an epoch yields depends on (seed, epoch) alone, and it can be entered
at any step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from fsbench.config.augment import AugmentOptions
from fsbench.data.augment import batch_augment, eval_transform, image_transform, normalize
from fsbench.data.load import Data
from fsbench.data.overlap import one_ahead, sent
from fsbench.data.seeding import generator
from fsbench.data.share import ALONE, Share
from fsbench.data.splits import MemorySplit, Split
from fsbench.data.streaming import FileBatches
from fsbench.errors import UsageError


def resized(images: Tensor, side: int | None) -> Tensor:
    """uint8 (B, C, H, W) to uint8 (B, C, side, side): bilinear with PIL's antialiasing; None: as it is.

    Float images stay float. In two passes, each rounded to whole grey levels (half up), as PIL does it: streamed images
    come out the same.
    """
    if side is None or images.shape[-2:] == (side, side):
        return images
    if images.is_floating_point():
        size = (side, side)
        return functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False)
    wide = _pass(images.float(), images.shape[-2], side)
    return _pass(wide, side, side).to(torch.uint8)


def _pass(images: Tensor, height: int, width: int) -> Tensor:
    change = functional.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return change.add_(0.5).floor_().clamp_(0, 255)


Batch = tuple[Tensor, Tensor]

# Of evaluation, at most.
_PIXELS_PER_BATCH = 1000 * 3 * 64 * 64


class TrainBatches:
    """Shuffled, augmented mini-batches; each example once per epoch.

    The last batch may be smaller; one of a single example is left out (where batch_size > 1), because
    BatchNorm has no variance for it. The order depends on (seed, epoch), the augmentation on (seed, epoch, step)
    where images are in memory, on (seed, epoch, image) where they are streamed; on every device they are the same. On
    a GPU the next batch is made while the step runs.

    Args:
        augment: to normalised float32, from uint8 (B, C, H, W) and a generator of the CPU where images are in
            memory, from a PIL image to (C, H, W) where they are streamed (its randomness: torch's global generator).
        image_size: side to which in-memory images are resized before `augment`; None: as they are.
        workers: processes that decode streamed images; they don't change what is yielded.
        share: yield only one device's rows of each mini-batch, the same that would be there for one device alone.

    Raises:
        UsageError: more images in a batch than there are; too little shared memory for the workers.
    """

    def __init__(
        self,
        split: Split,
        augment: Callable[..., Tensor],
        batch_size: int,
        seed: int,
        device: torch.device,
        image_size: int | None = None,
        workers: int = 2,
        share: Share = ALONE,
    ) -> None:
        if batch_size > len(split):
            raise UsageError("trainer.batch_size", batch_size, f"must be at most the {len(split)} training images")
        self.batch_size, self.seed, self.device = batch_size, seed, device
        self.examples = len(split)
        self._share = share
        self._augment, self._image_size = augment, image_size
        if isinstance(split, MemorySplit):
            self.images, self.labels = split.images.to(device), split.labels.to(device)
        else:
            self._files = FileBatches(split, augment, seed, device, workers, batch_size)
        self._in_memory = isinstance(split, MemorySplit)

    def __len__(self) -> int:
        """Steps per epoch."""
        whole, rest = divmod(self.examples, self.batch_size)
        return whole + (rest > 1)

    def size(self, step: int) -> int:
        """Rows of the whole mini-batch of a step."""
        return min(self.batch_size, self.examples - step * self.batch_size)

    def order(self, epoch: int) -> Tensor:
        """Which example comes when, (N,)."""
        # Drawn on the CPU, so that the order is the same on every device.
        return torch.randperm(self.examples, generator=generator(self.seed, "order", epoch))

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """(x, y) of the steps start, start + 1, ...: x float32 (B, C, H, W) normalised, y int64 (B,), on the device.

        Raises:
            ValueError: unless 0 <= start <= len(self).
        """
        if not 0 <= start <= len(self):
            raise ValueError(f"an epoch has {len(self)} steps, it cannot be entered at step {start}")
        order = self.order(epoch)
        if self._in_memory:
            order = sent(order, self.device)
        chosen = order.split(self.batch_size)[start : len(self)]
        if self._in_memory:
            return one_ahead(self._from_memory(chosen, epoch, start), self.device)
        return one_ahead(_shared(self._files, chosen, epoch, self._share), self.device)

    def _from_memory(self, chosen: Sequence[Tensor], epoch: int, start: int) -> Iterator[Batch]:
        for step, indices in enumerate(chosen, start):
            # Whole images are copied: 18 times as fast on a CPU as by self._images[indices].
            images = self.augmented(self.images.index_select(0, indices), epoch, step)
            # Drawn for all rows, so that each is what it would be on one device.
            rows = self._share.of(len(indices))
            own = slice(rows.start, rows.stop, rows.step)
            yield images[own], self.labels[indices[own]]

    def augmented(self, images: Tensor, epoch: int, step: int) -> Tensor:
        """Images in memory as the network sees them in a step."""
        return self._augment(resized(images, self._image_size), generator(self.seed, "augment", epoch, step))


class EvalBatches:
    """A whole split in its own order, not augmented, the last batch as small as it comes; iterable again and again.

    Args:
        prepare: to normalised float32, from uint8 (B, C, H, W) where images are in memory, from a PIL image to
            (C, H, W) where they are streamed.
        share: yield only one device's rows of each batch; of a small batch that may be none.
        dtype: of the images.
    """

    def __init__(
        self,
        split: Split,
        prepare: Callable[..., Tensor],
        batch_size: int,
        device: torch.device,
        workers: int = 0,
        share: Share = ALONE,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.batch_size, self.device, self.examples, self._share = batch_size, device, len(split), share
        self._prepare, self._dtype = prepare, dtype
        if isinstance(split, MemorySplit):
            self._images, self._labels = split.images.to(device), split.labels.to(device)
        else:
            self._files = FileBatches(split, prepare, 0, device, workers, batch_size)
        self._in_memory = isinstance(split, MemorySplit)

    def __len__(self) -> int:
        """Number of batches."""
        return -(-self.examples // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        if self._in_memory:
            batches = self._from_memory()
        else:
            batches = _shared(self._files, torch.arange(self.examples).split(self.batch_size), 0, self._share)
        return ((x.to(self._dtype), y) for x, y in batches)

    def _from_memory(self) -> Iterator[Batch]:
        for images, labels in zip(
            self._images.split(self.batch_size), self._labels.split(self.batch_size), strict=True
        ):
            rows = self._share.of(len(labels))
            own = slice(rows.start, rows.stop, rows.step)
            yield self._prepare(images[own]), labels[own]


def _shared(files: FileBatches, chosen: Sequence[Tensor], epoch: int, share: Share) -> Iterator[Batch]:
    """A device's rows of the batches of these indices; only they are decoded (one where there are none)."""
    rows = [share.of(len(indices)) for indices in chosen]
    own = [indices[list(r) or [0]] for indices, r in zip(chosen, rows, strict=True)]
    for (x, y), r in zip(files.batches(own, epoch), rows, strict=True):
        yield x[: len(r)], y[: len(r)]


def train_batches(
    data: Data,
    augment: AugmentOptions,
    batch_size: int,
    seed: int,
    device: torch.device,
    workers: int,
    share: Share = ALONE,
) -> TrainBatches:
    """Batches of `data.train`, or one device's share of them.

    Raises:
        UsageError: batch_size larger than the training split; an augmentation that can't act on these images.
    """
    if isinstance(data.train, MemorySplit):
        if augment.autoaugment and data.train.images.is_floating_point():
            policy = augment.autoaugment
            raise UsageError("augment.autoaugment", policy, "works on whole grey levels, not on float images")
        side = min(data.shape[1:])
        change: Callable[..., Tensor] = batch_augment(augment, data.mean, data.std, side)
    else:
        change = image_transform(augment, data.mean, data.std, data.shape[1])
    size = _resize_to(data, data.train)
    return TrainBatches(data.train, change, batch_size, seed, device, image_size=size, workers=workers, share=share)


def eval_batches(
    split: Split,
    data: Data,
    augment: AugmentOptions,
    device: torch.device,
    workers: int,
    share: Share = ALONE,
    dtype: torch.dtype = torch.float32,
) -> EvalBatches:
    """Batches of any split of `data`, or one device's share of them (not augmented; `augment` says how streamed images
    are cropped)."""
    batch_size = max(1, min(1000, _PIXELS_PER_BATCH // (data.shape[0] * data.shape[1] * data.shape[2])))
    prepare: Callable[..., Tensor]
    if isinstance(split, MemorySplit):
        prepare = partial(_normalized, size=_resize_to(data, split), mean=data.mean, std=data.std)
    else:
        prepare = eval_transform(augment, data.mean, data.std, data.shape[1])
    return EvalBatches(split, prepare, batch_size, device, workers, share, dtype)


def _normalized(images: Tensor, size: int | None, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    return normalize(resized(images, size), mean, std)


def _resize_to(data: Data, split: Split) -> int | None:
    """The side to which images in memory are resized; None where they are as the network sees them."""
    if not isinstance(split, MemorySplit) or tuple(split.images.shape[1:]) == data.shape:
        return None
    return data.shape[1]
