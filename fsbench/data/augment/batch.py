"""Augmentation of a batch that lies on the device, one draw per image, and its normalisation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fsbench.config.augment import AugmentOptions
from fsbench.data.augment.autoaugment import autoaugment
from fsbench.data.overlap import sent
from fsbench.errors import UsageError

Padding = Literal["zeros", "reflect"]
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
        return flip_crop(images, generator, options.flip, options.crop, options.padding)

    steps = [changed, moved] if options.autoaugment_first else [moved, changed]
    if options.builder:
        steps.append(options.built_by()(options))

    def augment(images: Tensor, generator: torch.Generator) -> Tensor:
        for step in steps:
            images = step(images, generator)
        return cutout_(normalize(images, mean, std), options.cutout, generator)

    return augment


def flip_crop(images: Tensor, generator: torch.Generator, flip: bool, crop: int, padding: Padding) -> Tensor:
    """Pad each image by `crop` pixels on every side, crop back at a random place, mirror with probability 1/2.

    The crop's offset is uniform over the (2 crop + 1)^2 places, as in torchvision's
    `RandomCrop(size, crop)`; the flip is `RandomHorizontalFlip()`. What is added is zeros, or the image mirrored at its
    outermost pixels ("reflect"; Raises UsageError unless it is larger than `crop`). Images (B, C, H, W) of any dtype;
    returns a tensor of the same shape (the same tensor where nothing is asked for). One draw per image, from a
    generator of the CPU.
    """
    if not flip and not crop:
        return images
    batch, channels, height, width = images.shape
    check_crop(crop, padding, min(height, width))
    rows = torch.arange(height).expand(batch, height)
    columns = torch.arange(width).expand(batch, width)
    if flip:
        mirrored = torch.randint(2, (batch, 1), generator=generator).bool()
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if crop:
        offset = torch.randint(2 * crop + 1, (2, batch, 1), generator=generator)
        rows, columns = rows + offset[0], columns + offset[1]
    if crop and padding == "reflect":
        rows, columns = _reflected(rows - crop, height), _reflected(columns - crop, width)
    elif crop:
        images = F.pad(images, (crop, crop, crop, crop))
    rows, columns = sent(torch.cat((rows, columns), dim=1), images.device).split((height, width), dim=1)
    pixels = rows[:, :, None] * images.shape[3] + columns[:, None, :]
    pixels = pixels.view(batch, 1, -1).expand(batch, channels, -1)
    return images.flatten(2).gather(2, pixels).view(batch, channels, height, width)


def _reflected(places: Tensor, length: int) -> Tensor:
    """Places from -(length - 1) to 2 length - 2, mirrored at 0 and length - 1 into the image."""
    return length - 1 - (length - 1 - places.abs()).abs()


def cutout_(images: Tensor, side: int, generator: torch.Generator | None) -> Tensor:
    """Set a square of `side` pixels to 0 in each of the normalised images (B, C, H, W), in place; 0 is the mean.

    The centre (cy, cx) is uniform over the image and the hole, rows cy - side//2 up to but not including
    cy - side//2 + side and columns likewise, is clipped at the border. (DeVries and Taylor 2017, section 3.2.)
    `generator` is one of the CPU; None draws from torch's global one. Raises UsageError where the square is larger than
    the image.
    """
    if not side:
        return images
    batch, _, height, width = images.shape
    check_side(side, min(height, width))
    outside = torch.cat([_outside(batch, length, side, generator) for length in (height, width)], dim=1)
    rows, columns = sent(outside, images.device).split((height, width), dim=1)
    return images.mul_(rows[:, None, :, None] | columns[:, None, None, :])


def _outside(batch: int, length: int, side: int, generator: torch.Generator | None) -> Tensor:
    """Which of the `length` rows (or columns) the hole leaves alone: bool (B, length)."""
    start = torch.randint(length, (batch, 1), generator=generator) - side // 2
    place = torch.arange(length)
    return (place < start) | (place >= start + side)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x / 255 - mean) / std per channel: uint8 (..., C, H, W) to a new float32 tensor of the same shape.

    `mean` and `std` hold C numbers each, for images scaled to [0, 1]; float ones are taken as such, (x - mean) / std.
    Raises TypeError where `images` is neither uint8 nor float.
    """
    shift, scale = _moments(tuple(mean), tuple(std), images.device)
    if images.is_floating_point():
        return images.float().sub(shift).div_(scale)
    if images.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 or float, not {images.dtype}")
    return images.float().mul_(1 / 255).sub_(shift).div_(scale)


@lru_cache(maxsize=64)
def _moments(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # kept on the device: a copy per batch would stop the host
    return (
        torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1),
        torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1),
    )


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


def check_side(side: int, smallest: int) -> None:
    """Raise UsageError for a hole larger than an image of side `smallest`: often nothing of the image would be left."""
    if side > smallest:
        raise UsageError("augment.cutout", side, f"must be at most {smallest}, the side of the images")


def check_crop(crop: int, padding: Padding, smallest: int) -> None:
    """Raise UsageError where an image of side `smallest` has not the pixels that its padding mirrors."""
    if padding == "reflect" and crop >= smallest:
        raise UsageError("augment.crop", crop, f"must be at most {smallest - 1} to pad these images by reflection")
