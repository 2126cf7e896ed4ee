"""LeNet-5."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fsbench.config.model import LeNet


def build(options: LeNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv5(6), pool, conv5(16), pool, linear 120, 84, classes, with ReLU and 2x2 max-pooling.

    The network was made for 32 px: smaller images (MNIST) are padded by 2 in the first layer, which gives
    61,706 parameters there. Source: LeCun et al. 1998, section II.B, in today's usual form; PyTorch's
    initialisation.
    """
    bias, padding = options.bias, lenet_padding(shape)
    height, width = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in shape[1:])
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], 6, 5, padding=padding, bias=bias),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(6, 16, 5, bias=bias),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear1=nn.Linear(16 * height * width, 120, bias=bias),
            relu3=nn.ReLU(),
            linear2=nn.Linear(120, 84, bias=bias),
            relu4=nn.ReLU(),
            linear3=nn.Linear(84, classes, bias=bias),
        )
    )


def lenet_padding(shape: tuple[int, int, int]) -> int:
    """2 pixels on each side for images below LeNet's 32 px, else none."""
    return 2 if min(shape[1:]) < 32 else 0
