"""From grey levels to the network's input."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


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


@functools.lru_cache(maxsize=64)
def _moments(mean: tuple[float, ...], std: tuple[float, ...], device: torch.device) -> tuple[Tensor, Tensor]:
    # kept on the device: a copy per batch would stop the host
    return (
        torch.tensor(mean, dtype=torch.float32, device=device).view(-1, 1, 1),
        torch.tensor(std, dtype=torch.float32, device=device).view(-1, 1, 1),
    )
