"""AutoAugment's operations that send each grey level to another: one table of 256 levels per magnitude."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

POINTWISE = ("Brightness", "Posterize", "Solarize", "Invert")


def level_table(operation: str, magnitude: float) -> Tensor:
    """The level that torchvision's operation gives to each of the levels 0 to 255: uint8 (256,)."""
    levels = torch.arange(256, dtype=torch.uint8, device="cpu").view(1, 16, 16)
    if operation == "Brightness":
        levels = tv.adjust_brightness(levels, 1.0 + magnitude)
    elif operation == "Posterize":
        levels = tv.posterize(levels, int(magnitude))
    elif operation == "Solarize":
        levels = tv.solarize(levels, 255.0 * magnitude)
    else:
        levels = tv.invert(levels)
    return levels.flatten()


def map_levels(images: Tensor, table: Tensor) -> Tensor:
    """Image b of `images` (n, C, H, W) with every level v replaced by `table[b, v]`; uint8."""
    return table.gather(1, images.flatten(1).long()).view_as(images)
