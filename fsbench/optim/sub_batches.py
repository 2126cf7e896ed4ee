"""Cutting a mini-batch into contiguous slices, each with its share of the examples."""

from __future__ import annotations

from itertools import pairwise

Part = tuple[slice, float]


def sub_batches(size: int, parts: int) -> list[Part]:
    """`parts` contiguous slices as equal as possible (fewer if there are fewer examples), with shares n_i/N."""
    parts = min(parts, size)
    edges = [size * i // parts for i in range(parts + 1)]
    return [(slice(a, b), (b - a) / size) for a, b in pairwise(edges)]


def groups_of(size: int, m: int) -> list[Part]:
    """Contiguous slices of m examples, the last one smaller where m does not divide the size, with shares n_i/N."""
    return [(slice(a, min(a + m, size)), (min(a + m, size) - a) / size) for a in range(0, size, m)]


def batch_size(size: int | None, method: str) -> int:
    """The size handed to `step`, or ValueError telling how to hand it."""
    if size is None or size < 1:
        raise ValueError(f"{method} slices the mini-batch: call optimizer.step(closure, size=len(x)), got size={size}")
    return size
