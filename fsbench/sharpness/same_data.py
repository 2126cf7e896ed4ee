"""Whether two passes over the data met the same examples."""

from __future__ import annotations

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
    return not bool(((first - second).abs() > 1e-9 * scale).any())


def _projected(values: Tensor) -> Tensor:
    rows = values.reshape(len(values), -1).double()
    # Different for every place, and never zero.
    places = torch.cos(torch.arange(rows.shape[1], dtype=torch.float64, device=rows.device))
    return rows @ places
