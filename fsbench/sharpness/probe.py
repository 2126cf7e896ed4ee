"""A few examples that differ, to find out on what a network does with its weights and with its batch."""

from __future__ import annotations

import torch
from torch import Tensor

# No usual length of an axis other than the batch's: a layer along such an axis would look like one along the batch.
EXAMPLES = 5


def varied_examples(x: Tensor) -> Tensor:
    """The first `EXAMPLES` of x (n, ...), made up where there are fewer: the first one with noise, if it has floats."""
    missing = EXAMPLES - len(x)
    if missing <= 0:
        return x[:EXAMPLES].clone()
    more = x[:1].repeat(missing, *(1 for _ in x.shape[1:]))
    if x.is_floating_point():
        noise = torch.randn(more.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        more = more + noise.to(more) * (x[:1].double().pow(2).mean().sqrt().to(more) + torch.finfo(x.dtype).eps)
    return torch.cat([x, more])
