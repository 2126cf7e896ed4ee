"""The small convolutional network of Ibayashi et al.'s check of the trace."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fsbench.config.model import SmallCnn


def build(options: SmallCnn, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv5(20), pool, conv5(20), pool, linear, with ReLU and 2x2 max-pooling, without padding.

    Source: Ibayashi et al. 2021, appendix F; PyTorch's initialisation.
    """
    width, bias = options.width, options.bias
    rows, columns = (((size - 4) // 2 - 4) // 2 for size in shape[1:])
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(shape[0], width, 5, bias=bias),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(width, width, 5, bias=bias),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            linear=nn.Linear(width * rows * columns, classes, bias=bias),
        )
    )
