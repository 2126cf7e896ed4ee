"""The horizontal flip and the random crop after padding, in one reading of the pixels."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from fsbench.data.overlap import sent
from fsbench.errors import UsageError

Padding = Literal["zeros", "reflect"]


def flip_crop(
    images: Tensor, flip: bool, crop: int, generator: torch.Generator | None, padding: Padding = "zeros"
) -> Tensor:
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
    source = rows[:, :, None] * images.shape[3] + columns[:, None, :]
    source = source.view(batch, 1, -1).expand(batch, channels, -1)
    return images.flatten(2).gather(2, source).view(batch, channels, height, width)


def check_crop(crop: int, padding: Padding, smallest: int) -> None:
    """Raise UsageError where an image of side `smallest` has not the pixels that its padding mirrors."""
    if padding == "reflect" and crop >= smallest:
        raise UsageError("augment.crop", crop, f"must be at most {smallest - 1} to pad these images by reflection")


def _reflected(places: Tensor, length: int) -> Tensor:
    """Places from -(length - 1) to 2 length - 2, mirrored at 0 and length - 1 into the image."""
    return length - 1 - (length - 1 - places.abs()).abs()
