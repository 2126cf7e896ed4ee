"""AutoAugment's geometric operations: every output pixel is one input pixel, or black.

Nearest-neighbour sampling has ties whose outcome hangs on float rounding. So torchvision itself, on the CPU, moves an
image of pixel numbers once per operation and magnitude; a batch then only follows the numbers, on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

GEOMETRIC = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def source_pixels(operation: str, magnitude: float, height: int, width: int) -> Tensor:
    """For each output pixel the number of the input pixel it shows, height * width for black: int64 (H * W,)."""
    # counted from 1, so that torchvision's fill of 0 marks what came from outside; float32 counts to 2^24
    numbers = torch.arange(1, height * width + 1, dtype=torch.float32, device="cpu").view(1, height, width)
    source = _torchvision(numbers, operation, magnitude).flatten().long() - 1
    return torch.where(source < 0, height * width, source)


def move(images: Tensor, source: Tensor) -> Tensor:
    """Image b of `images` (n, C, H, W) with pixel i taken from pixel `source[b, i]`, black for H * W."""
    n, channels, height, width = images.shape
    padded = F.pad(images.flatten(2), (0, 1))
    return padded.gather(2, source[:, None, :].expand(n, channels, -1)).view(n, channels, height, width)


def _torchvision(image: Tensor, operation: str, magnitude: float) -> Tensor:
    if operation == "Rotate":
        return tv.rotate(image, magnitude)
    if operation in ("TranslateX", "TranslateY"):
        pixels = int(magnitude)
        translate = [pixels, 0] if operation == "TranslateX" else [0, pixels]
        return tv.affine(image, angle=0.0, translate=translate, scale=1.0, shear=[0.0, 0.0])
    # the magnitude is a slope, torchvision takes degrees; the upper left corner stays
    degrees = math.degrees(math.atan(magnitude))
    shear = [degrees, 0.0] if operation == "ShearX" else [0.0, degrees]
    return tv.affine(image, angle=0.0, translate=[0, 0], scale=1.0, shear=shear, center=[0, 0])
