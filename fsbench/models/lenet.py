"""LeNet-5, LeNet as Ibayashi et al. describe it, and the small network of their check of the trace."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from fsbench.config.model import LeNet, LeNetIbayashi, SmallCnn


def build(options: LeNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv5(6), pool, conv5(16), pool, linear 120, 84, classes, with ReLU and 2x2 max-pooling.

    The network was made for 32 px: smaller images (MNIST) are padded by 2 in the first layer, which gives
    61,706 parameters there. Source: LeCun et al. 1998, section II.B, in today's usual form; PyTorch's
    initialisation.
    """
    bias, padding = options.bias, _padding(shape)
    height, width = _sides(shape, padding)
    return nn.Sequential(
        OrderedDict(
            **_convolutions(shape[0], 6, 16, bias, padding),
            flatten=nn.Flatten(),
            linear1=nn.Linear(16 * height * width, 120, bias=bias),
            relu3=nn.ReLU(),
            linear2=nn.Linear(120, 84, bias=bias),
            relu4=nn.ReLU(),
            linear3=nn.Linear(84, classes, bias=bias),
        )
    )


def build_ibayashi(options: LeNetIbayashi, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv5(6), pool, conv5(16), pool, conv5(120), linear 84, classes, with ReLU and 2x2 max-pooling.

    Images below 32 px are padded by 2 in the first layer. Source: Ibayashi et al. 2021, appendix D (the
    poolings, padding and biases are LeNet's, not stated there); PyTorch's initialisation.
    """
    bias, padding = options.bias, _padding(shape)
    height, width = (side - 4 for side in _sides(shape, padding))
    return nn.Sequential(
        OrderedDict(
            **_convolutions(shape[0], 6, 16, bias, padding),
            conv3=nn.Conv2d(16, 120, 5, bias=bias),
            relu3=nn.ReLU(),
            flatten=nn.Flatten(),
            linear1=nn.Linear(120 * height * width, 84, bias=bias),
            relu4=nn.ReLU(),
            linear2=nn.Linear(84, classes, bias=bias),
        )
    )


def build_small(options: SmallCnn, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv5(20), pool, conv5(20), pool, linear, with ReLU and 2x2 max-pooling, without padding.

    Source: Ibayashi et al. 2021, appendix F; PyTorch's initialisation.
    """
    channels, bias = options.width, options.bias
    height, width = _sides(shape, 0)
    return nn.Sequential(
        OrderedDict(
            **_convolutions(shape[0], channels, channels, bias, 0),
            flatten=nn.Flatten(),
            linear=nn.Linear(channels * height * width, classes, bias=bias),
        )
    )


def _convolutions(channels: int, first: int, second: int, bias: bool, padding: int) -> dict[str, nn.Module]:
    return {
        "conv1": nn.Conv2d(channels, first, 5, padding=padding, bias=bias),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(2),
        "conv2": nn.Conv2d(first, second, 5, bias=bias),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(2),
    }


def _padding(shape: tuple[int, int, int]) -> int:
    """2 pixels on each side for images below LeNet's 32 px, else none."""
    return 2 if min(shape[1:]) < 32 else 0


def _sides(shape: tuple[int, int, int], padding: int) -> list[int]:
    """Height and width behind the convolutions."""
    return [((size + 2 * padding - 4) // 2 - 4) // 2 for size in shape[1:]]
