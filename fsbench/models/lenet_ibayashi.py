"""LeNet as Ibayashi et al. describe it."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fsbench.config.model import LeNetIbayashi
from fsbench.models.lenet import lenet_padding


def build(options: LeNetIbayashi, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv5(6), pool, conv5(16), pool, conv5(120), linear 84, classes, with ReLU and 2x2 max-pooling.

    Images below 32 px are padded by 2 in the first layer. Source: Ibayashi et al. 2021, appendix D (the
    poolings, padding and biases are LeNet's, not stated there); PyTorch's initialisation.
    """
    bias, padding = options.bias, lenet_padding(shape)
    height, width = (((size + 2 * padding - 4) // 2 - 4) // 2 - 4 for size in shape[1:])
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 6, 5, padding=padding, bias=bias),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5, bias=bias),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(16, 120, 5, bias=bias),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            linear1=nn.Linear(120 * height * width, 84, bias=bias),
            relu4=nn.ReLU(),
            linear2=nn.Linear(84, classes, bias=bias),
        )
    )
