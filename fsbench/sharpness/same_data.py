"""Whether two passes over the data met the same examples."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor


def fingerprint(x: Tensor, y: Tensor) -> Tensor:
    """(n, sum p, sum p^2, sum q, sum q^2, sum p q) over n examples, (6,) in float64.

    p_i and q_i are fixed projections of x_i and y_i, in which the places of an image's pixels count. The sums are
    the same whatever the order and the batches; random augmentation changes them.
    """
    p, q = _projected(x), _projected(y)
    return torch.stack([torch.ones_like(p).sum(), p.sum(), p @ p, q.sum(), q @ q, p @ q])


def alike(first: Tensor, second: Tensor) -> bool:
    """Whether two sums of fingerprints differ by no more than rounding."""
    n, _, p2, _, q2, _ = first
    scale = torch.stack([n, (n * p2).sqrt(), p2, (n * q2).sqrt(), q2, (p2 * q2).sqrt()])
    return not bool(((first - second).abs() > 1e-6 * scale).any())


def _projected(values: Tensor) -> Tensor:
    """(n,): in the values' own precision, which is far finer than any change, and cheap beside a forward pass."""
    rows = values.reshape(len(values), -1)
    if not rows.is_floating_point():
        rows = rows.double()
    return (rows @ _places(rows.shape[1]).to(rows)).double()


@lru_cache(maxsize=16)
def _places(count: int) -> Tensor:
    """Different for every place, and never zero."""
    return torch.cos(torch.arange(count, dtype=torch.float64))
