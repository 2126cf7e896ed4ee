"""The plain convolutional network of jia2020."""

from __future__ import annotations

from torch import nn

from fsbench.config.model import Cnn
from fsbench.models.layers import classifier


def build(options: Cnn, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """3x3 convolutions with ReLU, 2x2 max-pools after the second and fourth, global average pooling, linear.

    Source: Jia & Su 2020, appendix E (filters 64, 64, 128, 128, 192, 192; He initialisation). Padding 1
    keeps the size, which the paper leaves open.
    """
    layers: list[tuple[str, nn.Module]] = []
    channels = shape[0]
    for index, width in enumerate(options.filters, start=1):
        layers.append((f"conv{index}", nn.Conv2d(channels, width, 3, padding=1)))
        layers.append((f"relu{index}", nn.ReLU()))
        if index in (2, 4):
            layers.append((f"pool{index}", nn.MaxPool2d(2)))
        channels = width
    return classifier(layers, channels, classes)
