"""Global average pooling and a linear classifier: how most convolutional networks end."""

from __future__ import annotations

from torch import nn


def pooled_classifier(channels: int, classes: int) -> list[tuple[str, nn.Module]]:
    """Named layers from (N, channels, H, W) to (N, classes)."""
    return [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(channels, classes))]
