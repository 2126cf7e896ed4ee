"""AutoAugment's operations that blend an image with a version of itself: Color, Contrast, Sharpness.

Each is f x + (1 - f) y, cut to [0, 255] and truncated to an integer, with a factor f = 1 + magnitude for each image:
`factors` (n, 2) are its `blend_factors`.
Truncation makes the last bit count (a grey pixel has x = y, and rounding decides between x and x - 1), so the sum is
rounded once, as the fused multiply-add in torchvision's kernels does. Where those do not fuse (other processors, the
odd pixels at the end of a vector) the two differ by at most one level, in few pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv


def blend_factors(factor: float) -> Tensor:
    """f and 1 - f, either rounded to float32, as float64 (2,)."""
    return torch.tensor((factor, 1.0 - factor), device="cpu").double()


def color(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the grey image; `images` uint8 (n, C, H, W); one channel stays as it is."""
    if images.shape[1] == 1:
        return images
    return _blend(images, tv.rgb_to_grayscale(images), factors)


def contrast(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the mean level of the grey image."""
    grey = images if images.shape[1] == 1 else tv.rgb_to_grayscale(images)
    return _blend(images, grey.float().mean(dim=(1, 2, 3), keepdim=True), factors)


def sharpness(images: Tensor, factors: Tensor) -> Tensor:
    """Blend with the 3 x 3 mean in which the centre counts five times; the border stays as it is."""
    if min(images.shape[2:]) <= 2:
        return images
    x = images.short()
    rows = x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]
    centre = x[:, :, 1:-1, 1:-1]
    weighted = (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]).add_(centre, alpha=4)
    # 13 is odd: no mean lies half-way between two levels, and rounding it is exact
    difference = weighted.float().div_(13).round_().sub_(centre)
    _, other = _columns(factors)
    sharp = images.clone()
    sharp[:, :, 1:-1, 1:-1] = _levels(torch.addcmul(centre, other, difference))
    return sharp


def _blend(images: Tensor, others: Tensor, factors: Tensor) -> Tensor:
    own, other = _columns(factors)
    return _levels(torch.addcmul(images * own.float(), others, other))


def _columns(factors: Tensor) -> tuple[Tensor, Tensor]:
    return factors[:, 0].view(-1, 1, 1, 1), factors[:, 1].view(-1, 1, 1, 1)


def _levels(values: Tensor) -> Tensor:
    return values.float().clamp_(0, 255).to(torch.uint8)
