"""Mean and standard deviation of the pixels, per channel."""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 4096


def channel_moments(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and population standard deviation per channel of uint8 images (N, C, H, W), as shares of 255.

    Exact: the sums are integers. A channel that never varies gets the deviation 1. Images that are float are taken as
    they are.
    """
    if images.is_floating_point():
        values = images.double().transpose(0, 1).flatten(1)
        deviations = values.std(1, correction=0).tolist()
        return tuple(values.mean(1).tolist()), tuple(deviation or 1.0 for deviation in deviations)
    first = second = torch.zeros(images.shape[1], dtype=torch.int64)
    for chunk in images.split(_CHUNK):
        pixels = chunk.int()
        first = first + pixels.sum(dim=(0, 2, 3))
        second = second + (pixels * pixels).sum(dim=(0, 2, 3))
    count = images.numel() // images.shape[1]
    mean, std = [], []
    for one, two in zip(first.tolist(), second.tolist(), strict=True):
        mean.append(one / count / 255)
        std.append((two * count - one * one) ** 0.5 / count / 255 or 1.0)
    return tuple(mean), tuple(std)
