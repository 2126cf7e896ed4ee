"""The horizontal flip and the random crop after zero padding, in one reading of the pixels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def flip_crop(images: Tensor, flip: bool, padding: int, generator: torch.Generator | None) -> Tensor:
    """Pad each image by `padding` zeros on every side, crop back at a random place, mirror with probability 1/2.

    The crop's offset is uniform over the (2 padding + 1)^2 places, as in torchvision's
    `RandomCrop(size, padding)`; the flip is `RandomHorizontalFlip()`. Images (B, C, H, W) of any dtype;
    returns a tensor of the same shape (the same tensor where nothing is asked for). One draw per image.
    """
    if not flip and not padding:
        return images
    batch, channels, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(batch, height)
    columns = torch.arange(width, device=device).expand(batch, width)
    if flip:
        mirrored = torch.randint(2, (batch, 1), generator=generator, device=device).bool()
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if padding:
        offset = torch.randint(2 * padding + 1, (2, batch, 1), generator=generator, device=device)
        rows, columns = rows + offset[0], columns + offset[1]
        images = F.pad(images, (padding, padding, padding, padding))
    source = rows[:, :, None] * images.shape[3] + columns[:, None, :]
    source = source.view(batch, 1, -1).expand(batch, channels, -1)
    return images.flatten(2).gather(2, source).view(batch, channels, height, width)
