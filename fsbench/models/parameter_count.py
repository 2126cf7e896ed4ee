"""The size of a network."""

from __future__ import annotations

from torch import nn


def parameter_count(model: nn.Module) -> int:
    """The number of trainable numbers of a network; shared parameters count once, buffers don't."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
