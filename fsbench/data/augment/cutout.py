"""Cutout: a square hole in every image."""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.data.overlap import sent
from fsbench.errors import UsageError


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


def check_side(side: int, smallest: int) -> None:
    """Raise UsageError for a hole larger than an image of side `smallest`: often nothing of the image would be left."""
    if side > smallest:
        raise UsageError("augment.cutout", side, f"must be at most {smallest}, the side of the images")


def _outside(batch: int, length: int, side: int, generator: torch.Generator | None) -> Tensor:
    """Which of the `length` rows (or columns) the hole leaves alone: bool (B, length)."""
    start = torch.randint(length, (batch, 1), generator=generator) - side // 2
    place = torch.arange(length)
    return (place < start) | (place >= start + side)
