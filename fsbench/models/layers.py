"""Parts of several families: the classifier behind convolutions with its initialisation, and a shortcut."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional


def classifier(layers: list[tuple[str, nn.Module]], channels: int, classes: int) -> nn.Sequential:
    """The named layers, which end in (N, channels, H, W), then global average pooling and a linear layer: (N, classes).

    Convolutions start from N(0, 2 / (k k out_channels)), their biases and those of linear layers at zero; linear
    weights and BatchNorm keep PyTorch's default. Source: He et al. 2015, section 2.2, in the fan-out form (eq. 14) of
    the ResNet, Wide ResNet and PyramidNet authors' code.
    """
    pooled = [("pool", nn.AdaptiveAvgPool2d(1)), ("flatten", nn.Flatten()), ("fc", nn.Linear(channels, classes))]
    model = nn.Sequential(OrderedDict([*layers, *pooled]))
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.bias is not None:
            nn.init.zeros_(module.bias)
    return model


class ZeroPadShortcut(nn.Module):
    """(N, in, H, W) -> (N, out, H', W'): `reduce` shrinks the image, zero channels are appended.

    Source: option A of He et al. 2016, section 3.3; also Han et al. 2017, section 3.2.
    """

    def __init__(self, in_channels: int, out_channels: int, reduce: nn.Module) -> None:
        super().__init__()
        self.missing = out_channels - in_channels
        self.reduce = reduce

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        # functional.pad counts dimensions from the last: W, W, H, H, then channels before and after
        return functional.pad(self.reduce(x), (0, 0, 0, 0, 0, self.missing))

    def extra_repr(self) -> str:
        return f"zero channels={self.missing}"
