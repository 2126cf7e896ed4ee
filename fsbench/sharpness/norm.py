"""The length of a vector of all weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def norm(tensors: Sequence[Tensor]) -> float:
    """The Euclidean norm of all entries of all tensors, summed in float64."""
    return float(torch.stack([t.double().square().sum() for t in tensors]).sum().sqrt())
