"""The batches that a run trains on and is evaluated on, as its options ask for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from fsbench.config.augment import AugmentOptions
from fsbench.data.augment import batch_augment, eval_transform, image_transform
from fsbench.data.batches import EvalBatches, TrainBatches
from fsbench.data.load import Data
from fsbench.data.share import ALONE, Share
from fsbench.data.splits import MemorySplit, Split
from fsbench.errors import UsageError

_PIXELS_PER_BATCH = 1000 * 3 * 64 * 64


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
    split: Split, data: Data, augment: AugmentOptions, device: torch.device, workers: int, share: Share = ALONE
) -> EvalBatches:
    """Batches of any split of `data`, or one device's share of them (not augmented; `augment` says how streamed images
    are cropped)."""
    batch_size = max(1, min(1000, _PIXELS_PER_BATCH // (data.shape[0] * data.shape[1] * data.shape[2])))
    streamed = not isinstance(split, MemorySplit)
    return EvalBatches(
        split,
        device,
        data.mean,
        data.std,
        image_size=_resize_to(data, split),
        batch_size=batch_size,
        transform=eval_transform(augment, data.mean, data.std, data.shape[1]) if streamed else None,
        workers=workers,
        share=share,
    )


def _resize_to(data: Data, split: Split) -> int | None:
    """The side to which images in memory are resized; None where they are as the network sees them."""
    if not isinstance(split, MemorySplit) or tuple(split.images.shape[1:]) == data.shape:
        return None
    return data.shape[1]
