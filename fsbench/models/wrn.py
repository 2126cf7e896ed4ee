"""Wide ResNet in the form made for CIFAR."""

from __future__ import annotations

import torch
from torch import nn

from fsbench.config.model import WideResNet
from fsbench.models.layers import classifier


def build(options: WideResNet, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """WRN-d-k: conv3(16), three groups of (d - 4) / 6 pre-activation B(3,3) blocks of widths 16k, 32k, 64k.

    BatchNorm, ReLU, average pooling and a linear layer follow. Source: Zagoruyko & Komodakis 2016,
    "Wide residual networks", table 1; He initialisation as in the authors' code.
    """
    blocks = (options.depth - 4) // 6
    layers: list[tuple[str, nn.Module]] = [("conv1", nn.Conv2d(shape[0], 16, 3, padding=1, bias=False))]
    channels = 16
    for group in range(3):
        width = 16 * 2**group * options.width
        stack = []
        for index in range(blocks):
            stride = 2 if group > 0 and index == 0 else 1
            stack.append(PreActivationBlock(channels, width, stride, options.dropout))
            channels = width
        layers.append((f"group{group + 1}", nn.Sequential(*stack)))
    layers += [("bn", nn.BatchNorm2d(channels)), ("relu", nn.ReLU())]
    return classifier(layers, channels, classes)


class PreActivationBlock(nn.Module):
    """x + conv3(dropout(relu(bn(conv3(a))))) with a = relu(bn(x)); conv1(a) in place of x where the shape changes."""

    def __init__(self, channels: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout > 0 else nn.Identity()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same = channels == width and stride == 1
        self.shortcut = None if same else nn.Conv2d(channels, width, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.relu1(self.bn1(x))
        out = self.relu2(self.bn2(self.conv1(active)))
        out = self.conv2(self.dropout(out))
        return out + (x if self.shortcut is None else self.shortcut(active))
