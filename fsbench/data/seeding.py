"""Random generators that depend on a seed, a purpose and a position, and on nothing else."""

from __future__ import annotations

import hashlib

import torch


def derived_seed(seed: int, *parts: str | int) -> int:
    """63 bits out of `seed` and the words and numbers after it.

    Different purposes have unrelated streams, so that changing one draw (say the noise rate) moves no other.
    """
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *parts: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on `device`, seeded by `derived_seed(seed, *parts)`."""
    return torch.Generator(device).manual_seed(derived_seed(seed, *parts))
