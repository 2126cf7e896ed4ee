"""Fully connected networks."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import nn

from fsbench.config.model import Mlp


def build(options: Mlp, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Linear layers with ReLU between them, widths C H W, *widths, classes; PyTorch's initialisation.

    Source: three hidden layers in Tsuzuku et al. 2019, section 6; 512, 128, 512 and 20, 20 in Ibayashi
    et al. 2021, appendices D and F (`fcnn`, `fcnn_small`).
    """
    layers: list[tuple[str, nn.Module]] = [("flatten", nn.Flatten())]
    inputs = math.prod(shape)
    for index, width in enumerate(options.widths, start=1):
        layers.append((f"linear{index}", nn.Linear(inputs, width, bias=options.bias)))
        layers.append((f"relu{index}", nn.ReLU()))
        inputs = width
    layers.append((f"linear{len(options.widths) + 1}", nn.Linear(inputs, classes, bias=options.bias)))
    return nn.Sequential(OrderedDict(layers))
