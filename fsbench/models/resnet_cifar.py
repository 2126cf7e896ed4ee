"""ResNet in the form made for CIFAR."""

from __future__ import annotations

import torch
from torch import nn

from fsbench.config.model import ResNetCifar
from fsbench.models.layers import ZeroPadShortcut, classifier


def build(options: ResNetCifar, shape: tuple[int, int, int], classes: int) -> nn.Module:
    """conv3(16), three stages of (depth - 2) / 6 basic blocks of widths 16, 32, 64, average pooling, linear.

    Source: He et al. 2016, "Deep residual learning for image recognition", section 4.2: shortcuts are
    the identity, zero-padded where the width doubles (option A); He initialisation.
    """
    blocks = (options.depth - 2) // 6
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(shape[0], 16, 3, padding=1, bias=False)),
        ("bn1", nn.BatchNorm2d(16)),
        ("relu1", nn.ReLU()),
    ]
    channels = 16
    for stage, width in enumerate((16, 32, 64), start=1):
        stack = []
        for _ in range(blocks):
            stack.append(BasicBlock(channels, width, stride=width // channels))
            channels = width
        layers.append((f"stage{stage}", nn.Sequential(*stack)))
    return classifier(layers, channels, classes)


class BasicBlock(nn.Module):
    """relu(shortcut(x) + bn(conv3(relu(bn(conv3(x)))))), (N, in, H, W) -> (N, width, H / stride, W / stride)."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        # average pooling over one pixel with stride 2 takes every second pixel
        same = channels == width and stride == 1
        self.shortcut = nn.Identity() if same else ZeroPadShortcut(channels, width, nn.AvgPool2d(1, stride))
        self.relu2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))
