"""Resizing of a batch of images that lies on the device."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


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
