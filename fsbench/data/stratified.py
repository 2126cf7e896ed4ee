"""Subsets that keep the proportions of the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from fsbench.data.seeding import generator


def stratified_counts(class_sizes: Tensor, n: int, draw: torch.Generator) -> Tensor:
    """The number of each class in a subset of n: n N_c / N rounded down or up, n in all.

    Largest remainders are rounded up; equal remainders are decided by `draw`.

    Args:
        class_sizes: (K,) int64, N_c.
    """
    total = int(class_sizes.sum())
    floor, remainder = class_sizes * n // total, class_sizes * n % total
    shuffled = torch.randperm(len(class_sizes), generator=draw)
    largest = shuffled[remainder[shuffled].argsort(descending=True, stable=True)]
    floor[largest[: n - int(floor.sum())]] += 1
    return floor


def stratified_split(labels: Tensor, n: int, classes: int, seed: int, purpose: str) -> tuple[Tensor, Tensor]:
    """Indices (chosen, rest) of a random subset of exactly n examples, per class within 1 of its share.

    Args:
        labels: (N,) int64 in 0 .. classes - 1.
        purpose: the word that separates this draw from others with the same seed.

    Returns:
        Two ascending int64 vectors of n and N - n indices.

    Raises:
        ValueError: unless 0 <= n <= N.
    """
    if not 0 <= n <= len(labels):
        raise ValueError(f"cannot choose {n} of {len(labels)} examples")
    draw = generator(seed, purpose)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    if n > 0:
        wanted = stratified_counts(torch.bincount(labels, minlength=classes), n, draw)
        for label, count in enumerate(wanted.tolist()):
            members = (labels == label).nonzero().squeeze(1)
            chosen[members[torch.randperm(len(members), generator=draw)[:count]]] = True
    return chosen.nonzero().squeeze(1), (~chosen).nonzero().squeeze(1)
