"""Augmentation of a batch that lies on the device: one draw per image, no loop over images."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from fsbench.config.augment import AugmentOptions
from fsbench.data.augment.autoaugment import autoaugment
from fsbench.data.augment.cutout import check_side, cutout_
from fsbench.data.augment.flip_crop import check_crop, flip_crop
from fsbench.data.augment.normalize import normalize
from fsbench.errors import UsageError

STREAMED_ONLY = ("random_resized_crop", "resize", "size", "color_jitter")


def batch_augment(
    options: AugmentOptions, mean: Sequence[float], std: Sequence[float], size: int | None = None
) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Flip, crop, AutoAugment (or it before them), a user's own change, normalise, Cutout, as a function of (images,
    generator).

    It takes uint8 images (B, C, H, W), which it leaves as they are, and a generator of the CPU, from which all its
    randomness comes on every device; it returns normalised float32 images of the same shape. `mean` and `std`: C
    numbers each, for images scaled to [0, 1]; `size`: the images' shorter side, where known, to check sizes early.

    Raises UsageError for options that need image files, for AutoAugment on other than 1 or 3 channels, and for a
    Cutout or a reflection larger than the images.
    """
    refuse_streamed(options)
    check_channels(options, mean)
    if size is not None:
        check_side(options.cutout, size)
        check_crop(options.crop, options.padding, size)

    def changed(images: Tensor, generator: torch.Generator) -> Tensor:
        return autoaugment(images, options.autoaugment, generator) if options.autoaugment else images

    def moved(images: Tensor, generator: torch.Generator) -> Tensor:
        return flip_crop(images, options.flip, options.crop, generator, options.padding)

    steps = [changed, moved] if options.autoaugment_first else [moved, changed]
    if options.builder:
        steps.append(options.built_by()(options))

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return cutout_(normalize(images, mean, std), options.cutout, generator)

    return augment


def refuse_streamed(options: AugmentOptions) -> None:
    """Raise UsageError for options that need image files."""
    for key in STREAMED_ONLY:
        value = getattr(options, key)
        if value:
            raise UsageError(f"augment.{key}", value, "works on data sets that are streamed from image files only")


def check_channels(options: AugmentOptions, mean: Sequence[float]) -> None:
    """Raise UsageError where AutoAugment is asked for on images that are neither grey nor RGB."""
    if options.autoaugment and len(mean) not in (1, 3):
        raise UsageError("augment.autoaugment", options.autoaugment, f"needs 1 or 3 channels, not {len(mean)}")
